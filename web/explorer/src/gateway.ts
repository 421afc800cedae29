/**
 * The two ways to the gateway: requests over HTTP and one shared WebSocket (graphql-transport-ws) for subscriptions.
 *
 * Which of them an operation takes is decided by parsing it, so that a subscription sent before the schema has loaded
 * goes over the socket too. Failures become sentences that a person can act on.
 */
import type { FetcherParams } from '@graphiql/toolkit';
import { type DocumentNode, type FormattedExecutionResult, Kind, type OperationDefinitionNode, OperationTypeNode, parse } from 'graphql';
import { type Client, CloseCode, createClient } from 'graphql-ws';
import { meros } from 'meros/browser';

import { apiKey } from './key';
import { Observable } from './observable';
import { page } from './page';

export type Result = FormattedExecutionResult;

const KEY_HEADER = 'x-api-key';
const ACCEPT = 'application/graphql-response+json, multipart/mixed;q=0.9, application/json;q=0.8';
const LONGEST_RETRY_MS = 3000;
/** Roughly an hour at the longest wait: a laptop lid may stay closed over lunch. */
const RETRIES = 1200;
const UNREACHABLE = 'The gateway does not answer. Is it still running?';

/** How a request went, as the page shows it below the response. */
export interface Exchange {
  status: number;
  milliseconds: number;
  bytes: number;
}

export const socketState = new Observable<'idle' | 'connecting' | 'open' | 'lost'>('idle');

export function parseOrNull(query: string): DocumentNode | null {
  try {
    return parse(query, { noLocation: true });
  } catch {
    return null;
  }
}

/** The operation that would run; the only one where none is named. */
export function chosenOperation(document: DocumentNode | null, name?: string | null): OperationDefinitionNode | undefined {
  const operations = document?.definitions.filter((definition) => definition.kind === Kind.OPERATION_DEFINITION) ?? [];
  return operations.find((operation) => operation.name?.value === name) ?? (operations.length === 1 ? operations[0] : undefined);
}

export function isSubscription(params: FetcherParams): boolean {
  return chosenOperation(parseOrNull(params.query), params.operationName)?.operation === OperationTypeNode.SUBSCRIPTION;
}

/** Sends one query or mutation. Yields once, or once per part where the server answers in parts (`@defer`). */
export async function* request(
  params: FetcherParams,
  headers: Record<string, string> = {},
  note: (exchange: Exchange) => void = () => {},
): AsyncGenerator<Result | Result[]> {
  const started = performance.now();
  const response = await post(params, headers);
  const parts = await meros<Result>(response, { multiple: true });
  if (parts instanceof Response) yield await readResult(parts, started, note);
  else for await (const batch of parts) yield batch.filter((part) => part.json).map((part) => part.body as Result);
}

async function post(params: FetcherParams, headers: Record<string, string>): Promise<Response> {
  const credentials: Record<string, string> = apiKey.get() ? { [KEY_HEADER]: apiKey.get() } : {};
  try {
    return await fetch(page.endpoint, {
      method: 'POST',
      body: JSON.stringify(params),
      headers: { accept: ACCEPT, 'content-type': 'application/json', ...credentials, ...headers },
      credentials: 'same-origin',
      referrerPolicy: 'no-referrer',
    });
  } catch {
    throw failure(UNREACHABLE);
  }
}

async function readResult(response: Response, started: number, note: (exchange: Exchange) => void): Promise<Result> {
  const text = await response.text();
  note({ status: response.status, milliseconds: performance.now() - started, bytes: new Blob([text]).size });
  try {
    return JSON.parse(text);
  } catch {
    throw failure(`The gateway answered ${response.status} ${response.statusText} without a GraphQL response: ${text.slice(0, 200)}`);
  }
}

/** An error as GraphiQL shows it: with its sentence, and without the bundle's stack. */
export function failure(sentence: string): Error {
  const error = new Error(sentence);
  delete error.stack;
  return error;
}

/** The first result of a request of the page's own. */
export async function ask(query: string): Promise<Result> {
  const { value } = await request({ query }).next();
  return Array.isArray(value) ? value[0]! : (value as Result);
}

/** By operation id: where to note the position that a stream has reached. */
const positions = new Map<string, (cursor: string) => void>();
let lastOperation = 0;
let client = connect();
apiKey.watch(() => {
  void client.dispose();
  client = connect();
});

function connect(): Client {
  const url = new URL(page.endpoint, location.href);
  url.protocol = url.protocol.replace('http', 'ws');
  return createClient({
    url: url.href,
    connectionParams: () => (apiKey.get() ? { [KEY_HEADER]: apiKey.get() } : {}),
    retryAttempts: RETRIES,
    retryWait: (attempt) => new Promise((done) => setTimeout(done, Math.min(250 * 2 ** attempt, LONGEST_RETRY_MS))),
    generateID: () => String(++lastOperation),
    shouldRetry: (cause) => !(cause instanceof CloseEvent && cause.code === CloseCode.Forbidden),
    on: {
      connecting: (again) => socketState.set(again ? 'lost' : 'connecting'),
      connected: () => socketState.set('open'),
      ping: (received, payload) => received && notePositions(payload),
      closed: (event) => socketState.set(event instanceof CloseEvent && event.code === 1000 ? 'idle' : 'lost'),
    },
  });
}

export interface Listener {
  next(result: Result): void;
  failed(message: string, errors?: unknown): void;
  complete(): void;
}

/** The gateway's pings carry each stream's cursor by operation id, also while nothing matches its filter. */
function notePositions(payload: Record<string, unknown> | undefined): void {
  for (const [operation, cursor] of Object.entries(payload ?? {})) {
    if (typeof cursor === 'string') positions.get(operation)?.(cursor);
  }
}

/**
 * Opens a subscription on the shared socket. Returns the function that ends it.
 *
 * Where the document passes a variable as the root field's `after`, the variable follows the stream's position: that
 * of the last `cursor` received, or of the last ping. graphql-ws sends the payload again after a dropped connection, so
 * the stream goes on from there.
 */
export function subscribe(params: FetcherParams, listener: Listener): () => void {
  const resumeVariable = variableOfAfter(params);
  const payload = { query: params.query, operationName: params.operationName, variables: { ...params.variables } };
  const moveTo = (cursor: string | undefined) => {
    if (cursor && resumeVariable) payload.variables[resumeVariable] = cursor;
  };
  const stop = client.subscribe(payload, {
    next(result) {
      moveTo(cursorOf(result as Result));
      listener.next(result as Result);
    },
    error(cause) {
      if (Array.isArray(cause)) listener.failed(cause.map(({ message }) => message).join(' '), cause);
      else listener.failed(explain(cause));
    },
    complete: () => listener.complete(),
  });
  const operation = String(lastOperation);
  positions.set(operation, moveTo);
  return () => {
    positions.delete(operation);
    stop();
  };
}

function variableOfAfter(params: FetcherParams): string | undefined {
  const field = chosenOperation(parseOrNull(params.query), params.operationName)?.selectionSet.selections[0];
  if (field?.kind !== Kind.FIELD) return undefined;
  const value = field.arguments?.find(({ name }) => name.value === 'after')?.value;
  return value?.kind === Kind.VARIABLE ? value.name.value : undefined;
}

function cursorOf({ data }: Result): string | undefined {
  const item = Object.values(data ?? {})[0] as { cursor?: unknown } | null | undefined;
  return typeof item?.cursor === 'string' ? item.cursor : undefined;
}

function explain(cause: unknown): string {
  if (!(cause instanceof CloseEvent)) return UNREACHABLE;
  if (cause.code === CloseCode.Forbidden) return `The gateway refused this key, or it was revoked. ${cause.reason}`.trim();
  return `The gateway closed the connection (${cause.code}). ${cause.reason}`.trim();
}
