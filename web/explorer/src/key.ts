/**
 * The API key: typed into the header's field, or handed over in the URL's fragment, which browsers keep to themselves.
 *
 * It lives in this tab's sessionStorage and goes out in a header or in connection_init; never into a URL, and never
 * into localStorage, where other tabs and later visits would find it.
 */
import { Observable } from './observable';

const SLOT = 'explorer.apiKey';
const FRAGMENT_FIELD = 'key';

export const apiKey = new Observable(sessionStorage.getItem(SLOT) ?? '');
apiKey.watch((key) => (key ? sessionStorage.setItem(SLOT, key) : sessionStorage.removeItem(SLOT)));

/** Takes `#key=…` into this tab's session and out of the address bar, so that it is in no bookmark or screenshot. */
function takeFromFragment(): void {
  const key = new URLSearchParams(location.hash.slice(1)).get(FRAGMENT_FIELD);
  if (key === null) return;
  history.replaceState(history.state, '', location.pathname + location.search);
  apiKey.set(key.trim());
}

takeFromFragment();
addEventListener('hashchange', takeFromFragment);
