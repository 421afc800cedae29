/** What the server says about itself: the JSON data block of the page, which no script policy applies to. */

export interface Page {
  title: string;
  /** Path of the GraphQL endpoint, on this origin. */
  endpoint: string;
  /** Where a newcomer finds a key, in one sentence. */
  keyHint: string;
  workers: { editor: string; graphql: string; json: string };
}

export const page: Page = JSON.parse(document.getElementById('explorer-page')!.textContent!);
