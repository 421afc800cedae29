/**
 * localStorage for GraphiQL's tabs, history and layout, without anybody's secrets: request headers, passwords and
 * tokens that were typed into the Headers or Variables editor work, and are gone with the tab.
 */
const SECRET_FIELD = 'headers';
const PASSWORD = /("password"\s*:\s*)"(?:[^"\\]|\\.)*"/g;
const CREDENTIAL = /\b(?:sk|pk|mt|rt)_[a-z]{2}_[\w-]+|\beyJ[\w-]+\.[\w-]+\.[\w-]+/g;

function withoutSecrets(value: string): string {
  const text = withoutCredentials(value);
  try {
    return JSON.stringify(JSON.parse(text), (field, content) => {
      if (field === SECRET_FIELD) return null;
      return typeof content === 'string' ? withoutCredentials(content) : content;
    });
  } catch {
    return text;
  }
}

function withoutCredentials(text: string): string {
  return text.replace(PASSWORD, '$1""').replace(CREDENTIAL, '');
}

export const storage: Storage = {
  get length() {
    return localStorage.length;
  },
  clear: () => localStorage.clear(),
  getItem: (name) => localStorage.getItem(name),
  key: (index) => localStorage.key(index),
  removeItem: (name) => localStorage.removeItem(name),
  setItem: (name, value) => localStorage.setItem(name, withoutSecrets(value)),
};
