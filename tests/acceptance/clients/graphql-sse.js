// The `graphql-sse` client in either of its modes.
import { createClient } from 'graphql-sse';

import { fail, headers, messages, play, scenario } from './scenario.js';

const client = createClient({
  url: scenario.url,
  headers,
  singleConnection: scenario.mode === 'single',
  retryAttempts: 0,
});

async function single(request) {
  for await (const result of client.iterate(request)) return result;
}

async function refusal(request) {
  try {
    return messages((await single(request)).errors);
  } catch (error) {
    // In single connection mode a refused operation is answered by plain HTTP, whose body the client does not read.
    if (scenario.mode === 'single' && error.response) return [error.message];
    throw error;
  }
}

play({
  query: single,
  mutate: single,
  subscribe: (request, onResult, onError) =>
    client.subscribe(request, { next: onResult, error: onError, complete: () => {} }),
  refusal,
  close: () => client.dispose(),
}).catch(fail);
