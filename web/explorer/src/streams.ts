/**
 * Running subscriptions, one per tab of GraphiQL, which outlive a change of tabs.
 *
 * GraphiQL ends a tab's subscription when another tab is opened, so that nobody could listen in one and send in
 * another. Here a stream stays open while its tab is away, goes on collecting, and is handed back when the tab is.
 * It ends when the user presses stop, closes the tab or changes the key. Only the newest results are kept.
 */
import type { FetcherParams } from '@graphiql/toolkit';

import { failure, type Result, subscribe } from './gateway';
import { apiKey } from './key';
import { Observable } from './observable';

/** Results kept per stream: some screens of scrolling, whatever the rate. */
const KEPT_RESULTS = 200;
/** Ended streams that stay listed. */
const KEPT_ENDED = 3;
/** Results that arrive within one frame are drawn together: a busy stream must not freeze the page. */
const FRAME_MS = 16;

export interface Item {
  number: number;
  at: Date;
  result: Result;
}

export interface Stream {
  id: number;
  tab: string;
  name: string;
  state: 'open' | 'ended' | 'failed';
  /** Why it is no longer open, in a sentence. */
  reason?: string;
  received: number;
  /** Newest first. */
  items: readonly Item[];
}

/** GraphiQL's side of a subscription. */
interface Sink {
  next(result: Result): void;
  error(error: unknown): void;
  complete(): void;
}

interface Running {
  id: number;
  tab: string;
  sink: Sink | null;
  /** Arrived since the last frame, newest first. */
  arrived: Item[];
  received: number;
  stop(): void;
}

export const streams = new Observable<readonly Stream[]>([]);
const running = new Map<string, Running>();
let lastId = 0;
let shownTab = '';
let knownTabs: readonly string[] = [];

/** Tells which tabs exist and which one is shown. GraphiQL says so in the same breath in which it ends a subscription. */
export function showTab(shown: string, known: readonly string[]): void {
  shownTab = shown;
  knownTabs = known;
  for (const stream of running.values()) {
    if (stream.tab !== shown) stream.sink = null;
    if (!known.includes(stream.tab)) end(stream, 'ended', 'Its tab was closed.');
  }
}

/** Whether the tab that is shown has a stream that GraphiQL does not hold. */
export function isWaitingToBeShown(): boolean {
  return running.get(shownTab)?.sink === null;
}

export function isOpenInAnotherTab(): boolean {
  return [...running.keys()].some((tab) => tab !== shownTab);
}

/** The running stream of the tab that is shown, or a new one, in the form that GraphiQL's fetcher gives back. */
export function open(params: FetcherParams, name: string) {
  return {
    subscribe(sink: Sink) {
      const stream = running.get(shownTab) ?? start(params, name);
      stream.sink = sink;
      const newest = streams.get().find(({ id }) => id === stream.id)?.items[0];
      if (newest) sink.next(newest.result);
      return { unsubscribe: () => release(stream) };
    },
  };
}

/** Ends the stream of a tab for good. */
export function stopStream(tab: string): void {
  const stream = running.get(tab);
  if (!stream) return;
  end(stream, 'ended', 'Stopped.');
  stream.sink?.complete();
}

/** GraphiQL lets go: for good, unless it is about to show another tab. */
function release(stream: Running): void {
  stream.sink = null;
  queueMicrotask(() => {
    const moved = shownTab !== stream.tab && knownTabs.includes(stream.tab);
    if (!moved && stream.sink === null) end(stream, 'ended', 'Stopped.');
  });
}

function start(params: FetcherParams, name: string): Running {
  const id = ++lastId;
  const stream: Running = { id, tab: shownTab, sink: null, arrived: [], received: 0, stop: () => {} };
  running.set(stream.tab, stream);
  const ended = streams.get().filter(({ state }) => state !== 'open');
  const kept = streams.get().filter((other) => other.state === 'open' || ended.indexOf(other) < KEPT_ENDED);
  streams.set([{ id, tab: stream.tab, name, state: 'open', received: 0, items: [] }, ...kept]);
  stream.stop = subscribe(params, {
    next: (result) => receive(stream, result),
    failed: (message, errors) => {
      const { sink } = stream;
      end(stream, 'failed', message);
      sink?.error(errors ?? failure(message));
    },
    complete: () => {
      const { sink } = stream;
      end(stream, 'ended', 'The gateway has nothing more to send.');
      sink?.complete();
    },
  });
  return stream;
}

function receive(stream: Running, result: Result): void {
  if (stream.arrived.length === 0) setTimeout(() => draw(stream), FRAME_MS);
  stream.arrived.unshift({ number: ++stream.received, at: new Date(), result });
  stream.arrived.length = Math.min(stream.arrived.length, KEPT_RESULTS);
}

function draw(stream: Running): void {
  const arrived = stream.arrived;
  if (arrived.length === 0) return;
  stream.arrived = [];
  change(stream.id, ({ items }) => ({ received: stream.received, items: [...arrived, ...items].slice(0, KEPT_RESULTS) }));
  stream.sink?.next(arrived[0]!.result);
}

function end(stream: Running, state: 'ended' | 'failed', reason: string): void {
  if (running.get(stream.tab) !== stream) return;
  draw(stream);
  running.delete(stream.tab);
  change(stream.id, () => ({ state, reason }));
  stream.stop();
}

function change(id: number, patch: (stream: Stream) => Partial<Stream>): void {
  streams.set(streams.get().map((stream) => (stream.id === id ? { ...stream, ...patch(stream) } : stream)));
}

apiKey.watch(() => {
  for (const stream of [...running.values()]) {
    end(stream, 'ended', 'The key was changed.');
    stream.sink?.complete();
  }
});
