// The `graphql-ws` client: every kind of operation over one socket.
import { createClient } from 'graphql-ws';

import { fail, messages, play, webSocketOptions } from './scenario.js';

const client = createClient(webSocketOptions);

async function single(request) {
  for await (const result of client.iterate(request)) return result;
}

play({
  query: single,
  mutate: single,
  subscribe: (request, onResult, onError) =>
    client.subscribe(request, { next: onResult, error: onError, complete: () => {} }),
  refusal: (request) =>
    new Promise((resolve, reject) =>
      client.subscribe(request, {
        next: (result) => reject(new Error(JSON.stringify(result))),
        error: (errors) => (Array.isArray(errors) ? resolve(messages(errors)) : reject(errors)),
        complete: () => reject(new Error('completed without an error')),
      }),
    ),
  close: () => client.dispose(),
}).catch(fail);
