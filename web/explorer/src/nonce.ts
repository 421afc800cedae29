/**
 * Gives every style element that a script creates the nonce of this page's content security policy.
 *
 * Monaco writes its themes and rules into style elements and knows no nonce; without one they would need
 * 'unsafe-inline', which would also let in whatever markup gets injected. Imported before anything that draws.
 */
const nonce = document.querySelector<HTMLLinkElement>('link[nonce]')!.nonce;
const createElement = document.createElement.bind(document);

document.createElement = ((name: string, options?: ElementCreationOptions) => {
  const element = createElement(name, options);
  if (name.toLowerCase() === 'style') element.nonce = nonce;
  return element;
}) as typeof document.createElement;

export {};
