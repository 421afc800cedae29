// Apollo Client with the split that its documentation recommends: subscriptions (or everything) over `graphql-ws`.
import { ApolloClient, ApolloLink, CombinedGraphQLErrors, gql, HttpLink, InMemoryCache } from '@apollo/client';
import { GraphQLWsLink } from '@apollo/client/link/subscriptions';
import { OperationTypeNode } from 'graphql';
import { createClient } from 'graphql-ws';

import { fail, headers, messages, play, scenario, webSocketOptions } from './scenario.js';

const socket = createClient(webSocketOptions);
const client = new ApolloClient({
  cache: new InMemoryCache(),
  defaultOptions: { query: { fetchPolicy: 'no-cache' }, mutate: { fetchPolicy: 'no-cache' } },
  link: ApolloLink.split(
    ({ operationType }) => scenario.mode === 'websocket' || operationType === OperationTypeNode.SUBSCRIPTION,
    new GraphQLWsLink(socket),
    new HttpLink({ uri: scenario.url, headers }),
  ),
});

play({
  query: ({ query, variables }) => client.query({ query: gql(query), variables }).then(({ data }) => ({ data })),
  mutate: ({ query, variables }) => client.mutate({ mutation: gql(query), variables }).then(({ data }) => ({ data })),
  subscribe({ query, variables }, onResult, onError) {
    const subscription = client.subscribe({ query: gql(query), variables, fetchPolicy: 'no-cache' }).subscribe({
      next: ({ data, error }) => (error ? onError(error) : onResult({ data })),
      error: onError,
    });
    return () => subscription.unsubscribe();
  },
  async refusal({ query, variables }) {
    try {
      await client.query({ query: gql(query), variables });
    } catch (error) {
      if (CombinedGraphQLErrors.is(error)) return messages(error.errors);
      throw error;
    }
    throw new Error('it was not refused');
  },
  async close() {
    client.stop();
    await socket.dispose();
  },
}).catch(fail);
