/**
 * localStorage for GraphiQL's tabs, history and layout, without anybody's request headers: a key typed into the
 * Headers editor works, and is gone with the tab.
 */
const SECRET_FIELD = 'headers';

function withoutHeaders(value: string): string {
  try {
    return JSON.stringify(JSON.parse(value), (field, content) => (field === SECRET_FIELD ? null : content));
  } catch {
    return value;
  }
}

export const storage: Storage = {
  get length() {
    return localStorage.length;
  },
  clear: () => localStorage.clear(),
  getItem: (name) => localStorage.getItem(name),
  key: (index) => localStorage.key(index),
  removeItem: (name) => localStorage.removeItem(name),
  setItem: (name, value) => localStorage.setItem(name, withoutHeaders(value)),
};
