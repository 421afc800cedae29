/** What GraphiQL calls to run an operation: one over HTTP, or a stream that the page keeps open across tabs. */
import type { Fetcher, FetcherOpts, FetcherParams } from '@graphiql/toolkit';

import { chosenOperation, type Exchange, isSubscription, parseOrNull, request } from './gateway';
import { Observable } from './observable';
import { isWaitingToBeShown, open } from './streams';

const INTROSPECTION = 'IntrospectionQuery';

/** The last request that the user sent, not those of the page itself. */
export const lastExchange = new Observable<Exchange | null>(null);

/** GraphiQL's type knows single results only; its code takes the batches of a multipart answer too. */
export const fetcher = ((given: FetcherParams, options?: FetcherOpts) => {
  const params = withOwnOperation(given);
  if (isWaitingToBeShown() && params.operationName !== INTROSPECTION) return open(params, '');
  if (isSubscription(params)) return open(params, nameOf(params.query, params.operationName));
  if (params.operationName === INTROSPECTION) return request(params, options?.headers);
  lastExchange.set(null);
  return request(params, options?.headers, (exchange) => lastExchange.set(exchange));
}) as Fetcher;

/** For a moment after a change of tabs GraphiQL still names the operation of the tab before. */
function withOwnOperation(params: FetcherParams): FetcherParams {
  const document = parseOrNull(params.query);
  return document ? { ...params, operationName: chosenOperation(document, params.operationName)?.name?.value } : params;
}

function nameOf(query: string, operationName?: string | null): string {
  return chosenOperation(parseOrNull(query), operationName)?.name?.value ?? 'subscription';
}
