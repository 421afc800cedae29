/** A headless Chromium that can reach the gateway under test and nothing else, and remembers everything that went wrong. */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { chromium } from 'playwright-core';

const EXECUTABLE = process.env.CHROMIUM ?? '/usr/bin/chromium';
const FLAGS = [
  '--no-sandbox',
  '--disable-gpu',
  '--disable-quic',
  '--no-first-run',
  '--disable-background-networking',
  '--disable-component-update',
  '--disable-sync',
];

/** How long an answer may take on a busy machine. */
const ANSWER_MS = 15_000;
const POLL_MS = 50;

export const endpoint = new URL(process.env.EXPLORER_URL);
export const key = process.env.EXPLORER_KEY;

/** Opens a fresh profile, runs `use` and closes it. Fails if the page complained or asked another host for anything. */
export async function inBrowser(use, { colorScheme = 'light', tolerate = () => false } = {}) {
  const profile = await mkdtemp(join(tmpdir(), 'explorer-'));
  const context = await chromium.launchPersistentContext(profile, {
    executablePath: EXECUTABLE,
    headless: true,
    colorScheme,
    viewport: { width: 1280, height: 800 },
    // No name resolves and no other address answers: the network is cut, the gateway excepted.
    args: [...FLAGS, `--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE ${endpoint.hostname}`],
  });
  const complaints = [];
  const requests = [];
  try {
    const page = context.pages()[0];
    page.setDefaultTimeout(ANSWER_MS);
    page.on('console', (message) => complaints.push(`console ${message.type()}: ${message.text()}`));
    page.on('pageerror', (error) => complaints.push(`uncaught: ${error.message}`));
    context.on('request', (request) => requests.push(request));
    await context.addInitScript(() => {
      addEventListener('securitypolicyviolation', ({ violatedDirective, blockedURI, sourceFile }) =>
        console.error(`policy violation: ${violatedDirective} ${blockedURI} in ${sourceFile}`),
      );
    });
    await use(page, requests);
    const foreign = requests.map((request) => request.url()).filter((url) => isForeign(url));
    const leaked = requests.map((request) => request.url()).filter((url) => url.includes(key));
    const wrong = [
      ...complaints.filter((text) => !tolerate(text)),
      ...foreign.map((url) => `foreign request: ${url}`),
      ...leaked.map((url) => `key in a URL: ${url}`),
    ];
    if (wrong.length > 0) throw new Error(wrong.join('\n'));
  } catch (error) {
    await screenshot(context.pages()[0], 'failure').catch(() => {});
    throw error;
  } finally {
    await context.close();
    await rm(profile, { recursive: true, force: true });
  }
}

function isForeign(url) {
  const { protocol, host } = new URL(url);
  return !['data:', 'blob:', 'about:'].includes(protocol) && host !== endpoint.host;
}

/** Keeps a picture for whoever looks at the run, where a folder for them is given. */
export async function screenshot(page, name) {
  const folder = process.env.EXPLORER_SCREENSHOTS;
  if (folder) await page.screenshot({ path: join(folder, `${name}.png`) });
}

/** Opens the page and waits until one can type into the editor. */
export async function openExplorer(page, { withKey = true } = {}) {
  await page.goto(withKey ? `${endpoint}#key=${key}` : endpoint.href);
  await page.waitForSelector('.graphiql-query-editor .view-line');
}

export async function chooseTab(page, name) {
  await page.locator('.graphiql-tab-button', { hasText: name }).click();
}

export async function play(page) {
  await page.click('.graphiql-execute-button');
}

/** The JSON in the response pane, once it satisfies `expected`. Asked from here: the page's policy forbids eval. */
export async function response(page, expected) {
  const deadline = Date.now() + ANSWER_MS;
  for (;;) {
    const text = await page.evaluate(
      () => globalThis.__MONACO?.editor.getModels().find(({ uri }) => uri.path.endsWith('response.json'))?.getValue() ?? '',
    );
    const value = text && JSON.parse(text);
    if (value && expected(value)) return value;
    if (Date.now() > deadline) throw new Error(`The response pane shows: ${text}`);
    await page.waitForTimeout(POLL_MS);
  }
}

/** Sends an operation past the page, as another program would. */
export async function send(query, variables = {}) {
  const answer = await fetch(endpoint, {
    method: 'POST',
    headers: { 'content-type': 'application/json', 'x-api-key': key },
    body: JSON.stringify({ query, variables }),
  });
  const { data, errors } = await answer.json();
  if (errors) throw new Error(JSON.stringify(errors));
  return data;
}
