/** The page of a gateway whose explorer was never built: `EXPLORER_URL=… EXPLORER_KEY=… node --test missing.test.js`. */
import assert from 'node:assert/strict';
import { test } from 'node:test';

import { endpoint, inBrowser, screenshot } from './browser.js';

for (const colorScheme of ['light', 'dark']) {
  test(`without the build the page says what it lacks and how to go on (${colorScheme})`, () =>
    inBrowser(
      async (page, requests) => {
        await page.goto(endpoint.href);
        assert.match(await page.title(), /GraphiQL is not built/);
        const text = await page.textContent('main');
        assert.match(text, /Install Node 20 or newer/);
        assert.match(text, /make explorer/);
        assert.ok(text.includes(`curl ${endpoint.href}`));
        assert.deepEqual(
          requests.map((request) => request.url()).filter((url) => !url.endsWith('/favicon.ico')),
          [endpoint.href],
        );
        const family = await page.evaluate(() => getComputedStyle(document.querySelector('pre')).borderRadius);
        assert.equal(family, '8px', 'its style is applied under its policy');
        await screenshot(page, `missing-${colorScheme}`);
      },
      { colorScheme, tolerate: (text) => text.includes('404') },
    ));
}
