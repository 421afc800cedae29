// urql: queries and mutations by fetch; subscriptions over `graphql-ws`, or by fetch as server-sent events.
import { createClient } from 'graphql-ws';
import { Client, fetchExchange, subscriptionExchange } from 'urql';

import { fail, headers, messages, play, scenario, webSocketOptions } from './scenario.js';

const socket = createClient(webSocketOptions);
const overSocket = subscriptionExchange({
  forwardSubscription: (request) => ({
    subscribe: (sink) => ({ unsubscribe: socket.subscribe(request, sink) }),
  }),
});
const client = new Client({
  url: scenario.url,
  fetchOptions: { headers },
  fetchSubscriptions: scenario.mode === 'sse',
  preferGetMethod: false,
  requestPolicy: 'network-only',
  exchanges: scenario.mode === 'sse' ? [fetchExchange] : [overSocket, fetchExchange],
});

function unwrapped({ data, error }) {
  if (error) throw error;
  return { data };
}

play({
  query: async ({ query, variables }) => unwrapped(await client.query(query, variables).toPromise()),
  mutate: async ({ query, variables }) => unwrapped(await client.mutation(query, variables).toPromise()),
  subscribe({ query, variables }, onResult, onError) {
    const { unsubscribe } = client.subscription(query, variables).subscribe(({ data, error }) => {
      if (error) onError(error);
      else if (data) onResult({ data });
    });
    return unsubscribe;
  },
  async refusal({ query, variables }) {
    const { error } = await client.query(query, variables).toPromise();
    return messages(error.graphQLErrors);
  },
  close: () => socket.dispose(),
}).catch(fail);
