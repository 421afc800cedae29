// A `graphql-ws` client that resumes by hand: after each closed socket it subscribes again from its last position,
// which it has from the results, or from the server's pings where there was no result. Takes `items` results.
import { createClient } from 'graphql-ws';

import { fail, scenario, webSocketOptions } from './scenario.js';

let position = scenario.after ?? null;
let operationId;
const received = [];
const client = createClient({
  ...webSocketOptions,
  retryAttempts: 20,
  retryWait: () => new Promise((resolve) => setTimeout(resolve, 50)),
  on: {
    ping: (fromServer, payload) => {
      if (fromServer && payload?.[operationId]) position = payload[operationId];
    },
  },
  generateID: () => (operationId = crypto.randomUUID()),
});

async function follow() {
  const { query } = scenario.subscription;
  const request = { query, get variables() { return { after: position }; } };
  for await (const { data, errors } of client.iterate(request)) {
    if (errors) throw new Error(JSON.stringify(errors));
    const item = Object.values(data)[0];
    position = item.cursor;
    received.push(item);
    console.log(JSON.stringify(item));
    if (received.length === scenario.items) return;
  }
}

follow().then(() => client.dispose()).catch(fail);
