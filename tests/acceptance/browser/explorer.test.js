/**
 * GraphiQL as a person meets it, against any gateway: `EXPLORER_URL=… EXPLORER_KEY=sk_… node --test`.
 *
 * Besides what it says, every test fails on a request to another host, on anything in the console, on a violation of
 * the content security policy, and on a URL that holds the key.
 */
import assert from 'node:assert/strict';
import { test } from 'node:test';

import { chooseTab, endpoint, inBrowser, key, openExplorer, play, response, screenshot, send } from './browser.js';

const TRACK = 'mutation Track($event: EventInput!) { track(input: { event: $event }) { event { seq } } }';

async function track(number) {
  const event = { eventType: 'order.placed', userId: 'ada', properties: { number } };
  return (await send(TRACK, { event })).track.event.seq;
}

async function listen(page) {
  await chooseTab(page, 'EventStream');
  await play(page);
  await page.getByRole('status').filter({ hasText: 'Listening' }).waitFor();
  await page.locator('.explorer-socket[data-state=open]').waitFor();
}

/** The facts lines of the panel's items, newest first. */
async function arrivals(page, count) {
  const lines = page.locator('.explorer-live summary span');
  await lines.nth(count - 1).waitFor();
  return lines.allTextContents();
}

test('without a key the page says where to find one', () =>
  inBrowser(
    async (page) => {
      await openExplorer(page, { withKey: false });
      const hint = page.locator('.explorer-hint');
      await hint.waitFor();
      assert.match(await hint.textContent(), /Paste an API key above to begin\..*keys\.json/);
      assert.equal(await page.getByRole('textbox', { name: 'API key' }).evaluate((field) => field === document.activeElement), true);
      await screenshot(page, 'no-key-light');
    },
    // A gateway may refuse to describe its schema to nobody; the browser then logs the status.
    { tolerate: (text) => /status of 40[01]/.test(text) },
  ));

test('a key in the fragment is taken into the session and out of the address bar', () =>
  inBrowser(async (page) => {
    await openExplorer(page);
    await page.locator('.explorer-who[data-state=known]').waitFor();
    assert.equal(page.url(), endpoint.href);
    const stored = await page.evaluate(() => ({ session: JSON.stringify(sessionStorage), local: JSON.stringify(localStorage) }));
    assert.ok(stored.session.includes(key));
    assert.ok(!stored.local.includes(key));
    assert.equal(await page.locator('.explorer-hint').isVisible(), false);
  }));

test('a key typed into the field is used from then on, and a reload keeps it', () =>
  inBrowser(
    async (page) => {
      await openExplorer(page, { withKey: false });
      await page.getByRole('textbox', { name: 'API key' }).fill(` ${key} `);
      await page.locator('.explorer-who[data-state=known]').waitFor();
      await page.reload();
      await page.locator('.explorer-who[data-state=known]').waitFor();
      await page.getByLabel('Forget the key').click();
      await page.locator('.explorer-who[data-state=none]').waitFor();
      assert.equal(await page.evaluate((secret) => JSON.stringify(sessionStorage).includes(secret), key), false);
    },
    { tolerate: (text) => /status of 40[01]/.test(text) },
  ));

test('a key that nobody knows is called so', () =>
  inBrowser(
    async (page) => {
      await openExplorer(page, { withKey: false });
      await page.getByRole('textbox', { name: 'API key' }).fill('sk_us_prod_nobody-ever-made-this-key-000000000000000');
      const hint = page.locator('.explorer-hint').filter({ hasText: 'This key was not accepted.' });
      await hint.waitFor();
      await screenshot(page, 'wrong-key-light');
    },
    { tolerate: (text) => /status of 40[01]/.test(text) },
  ));

test('a key typed into the Headers editor never reaches localStorage', () =>
  inBrowser(async (page) => {
    await openExplorer(page);
    await page.getByRole('button', { name: 'Headers' }).click();
    await page.locator('.graphiql-editor-tool .monaco-editor').last().click();
    await page.keyboard.insertText(`{"x-api-key": "${key}"}`);
    await chooseTab(page, 'Viewer');
    await play(page);
    await response(page, (value) => value.data?.viewer);
    // GraphiQL writes its tabs half a second after the last change.
    await page.waitForTimeout(900);
    const local = await page.evaluate(() => JSON.stringify(localStorage));
    assert.ok(local.includes('graphiql:tabState'));
    assert.ok(!local.includes(key));
  }));

test('a password and a token typed into the Variables editor never reach localStorage', () =>
  inBrowser(async (page) => {
    const secrets = ['seven violet anchors', 'rt_us_0123456789abcdefghijklmnopqrstuvwxyzABCDEFG'];
    await openExplorer(page);
    await chooseTab(page, 'SignUp');
    await page.locator('.graphiql-editor-tool .monaco-editor').first().click();
    await page.keyboard.press('Control+A');
    await page.keyboard.press('Delete');
    await page.keyboard.insertText(
      `{"input": {"email": "ada@example.com", "password": "${secrets[0]}", "anonymousRefreshToken": "${secrets[1]}"}}`,
    );
    await play(page);
    const { data } = await response(page, (value) => value.data?.signUp);
    assert.equal(data.signUp.userErrors[0].code, 'INVALID_CREDENTIALS');
    await page.waitForTimeout(900);
    const local = await page.evaluate(() => JSON.stringify(localStorage));
    assert.ok(local.includes('ada@example.com'));
    for (const secret of secrets) assert.ok(!local.includes(secret));
  }));

test('a session speaks through the Headers editor, and sees its own person', () =>
  inBrowser(async (page) => {
    await openExplorer(page);
    await chooseTab(page, 'SignInAnonymously');
    await play(page);
    const { data } = await response(page, (value) => value.data?.signInAnonymously?.session);
    const { accessToken, userId } = data.signInAnonymously.session;
    const project = (await send('{ viewer { project { uuid } } }')).viewer.project.uuid;
    await chooseTab(page, 'Me');
    await page.getByRole('button', { name: 'Headers' }).click();
    await page.locator('.graphiql-editor-tool .monaco-editor').last().click();
    await page.keyboard.insertText(`{"authorization": "Bearer ${accessToken}", "x-sendora-project": "${project}"}`);
    await play(page);
    const { data: seen } = await response(page, (value) => value.data?.viewer?.profile);
    assert.deepEqual([seen.viewer.role, seen.viewer.profile.userId], ['INGEST', userId]);
    await screenshot(page, 'session-light');
    await page.waitForTimeout(900);
    assert.ok(!(await page.evaluate(() => JSON.stringify(localStorage))).includes(accessToken));
  }));

test('a query runs', () =>
  inBrowser(async (page) => {
    await openExplorer(page);
    await chooseTab(page, 'Viewer');
    await play(page);
    const { data } = await response(page, (value) => value.data?.viewer);
    assert.equal(data.viewer.role, 'ADMIN');
    await page.getByRole('status').filter({ hasText: /^\s*200/ }).waitFor();
    await screenshot(page, 'viewer-light');
  }));

test('the documentation opens', () =>
  inBrowser(async (page) => {
    await openExplorer(page);
    await page.getByLabel('Show Documentation Explorer').click();
    await page.locator('.graphiql-doc-explorer').getByText('Subscription', { exact: true }).first().click();
    await page.locator('.graphiql-doc-explorer').getByText('eventStream', { exact: true }).waitFor();
    await screenshot(page, 'docs-light');
  }));

for (const colorScheme of ['light', 'dark']) {
  test(`an event sent in one tab arrives in the stream of another (${colorScheme})`, () =>
    inBrowser(
      async (page) => {
        await openExplorer(page);
        await listen(page);
        await screenshot(page, `listening-${colorScheme}`);
        await chooseTab(page, 'TrackEvent');
        await play(page);
        const { data } = await response(page, (value) => value.data?.track?.event);
        const seq = data.track.event.seq;
        assert.ok((await arrivals(page, 1)).includes(`#${seq} · ada`));
        await screenshot(page, `tracked-${colorScheme}`);
        await chooseTab(page, 'EventStream');
        const shown = await response(page, (value) => value.data?.eventStream);
        assert.equal(shown.data.eventStream.node.seq, seq);
        await screenshot(page, `stream-${colorScheme}`);
        await play(page);
        await page.getByText('Stopped.').waitFor();
        const background = await page.evaluate(() => getComputedStyle(document.body).backgroundColor);
        assert.equal(background, { light: 'rgb(255, 255, 255)', dark: 'rgb(33, 42, 59)' }[colorScheme]);
      },
      { colorScheme },
    ));
}

test('a subscription sent before the schema has loaded goes over the socket', () =>
  inBrowser(async (page, requests) => {
    let describe;
    const described = new Promise((done) => (describe = done));
    await page.route(endpoint.href, async (route) => {
      if (route.request().postData()?.includes('IntrospectionQuery')) await described;
      await route.continue();
    });
    const frames = [];
    page.on('websocket', (socket) => socket.on('framesent', ({ payload }) => frames.push(JSON.parse(payload))));
    await openExplorer(page);
    await listen(page);
    const spoken = frames.map(({ type }) => type).filter((type) => type !== 'pong');
    assert.deepEqual(spoken, ['connection_init', 'subscribe']);
    assert.deepEqual(frames[0].payload, { 'x-api-key': key });
    assert.equal(requests.filter((request) => request.postData()?.includes('eventStream(')).length, 0);
    describe();
    const seq = await track(0);
    const { data } = await response(page, (value) => value.data?.eventStream);
    assert.equal(data.eventStream.node.seq, seq);
  }));

for (const [moment, before] of [
  ['after some events', 1],
  // Only the gateway's ping has told where the stream began.
  ['before its first event', 0],
]) {
  test(`a stream that loses its connection ${moment} goes on where it stopped`, () =>
    inBrowser(async (page) => {
      const sockets = [];
      const pings = [];
      await page.routeWebSocket(/graphql/, (socket) => {
        const gateway = socket.connectToServer();
        gateway.onMessage((message) => {
          if (JSON.parse(message).type === 'ping') pings.push(message);
          socket.send(message);
        });
        sockets.push(socket);
      });
      await openExplorer(page);
      await listen(page);
      while (pings.length === 0) await page.waitForTimeout(20);
      const sent = [];
      for (let number = 0; number < before; number++) sent.push(await track(number));
      if (before > 0) await response(page, (value) => value.data?.eventStream);
      await sockets[0].close({ code: 1012, reason: 'Service restart' });
      for (const number of [2, 3, 4]) sent.push(await track(number));
      await page.getByLabel('Show Live streams').click();
      const lines = await arrivals(page, sent.length);
      assert.equal(sockets.length, 2);
      assert.deepEqual(
        lines,
        sent.reverse().map((seq) => `#${seq} · ada`),
      );
    }));
}

test('a gateway that is gone is called so', () =>
  inBrowser(
    async (page) => {
      await openExplorer(page);
      await page.locator('.explorer-who[data-state=known]').waitFor();
      await page.route(endpoint.href, (route) => route.abort('connectionrefused'));
      await chooseTab(page, 'Viewer');
      await play(page);
      const { errors } = await response(page, (value) => value.errors);
      assert.equal(errors[0].message, 'The gateway does not answer. Is it still running?');
    },
    { tolerate: (text) => text.includes('ERR_CONNECTION_REFUSED') },
  ));
