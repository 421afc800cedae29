/** The sidebar's panel of running streams: what arrives while another tab is shown, newest first. */
import type { GraphiQLPlugin } from '@graphiql/react';

import type { Result } from './gateway';
import { useObservable } from './observable';
import { type Item, type Stream, stopStream, streams } from './streams';

/** Items drawn per stream; the rest are only counted. */
const SHOWN_ITEMS = 60;

export const LIVE: GraphiQLPlugin = { title: 'Live streams', icon: LiveIcon, content: LivePanel };

function LiveIcon() {
  return (
    <svg viewBox="0 0 24 24" fill="none" stroke="currentColor" strokeWidth="1.8" strokeLinecap="round" aria-hidden="true">
      <circle cx="12" cy="12" r="2.4" fill="currentColor" stroke="none" />
      <path d="M7.8 7.8a6 6 0 0 0 0 8.400M16.200 7.800a6 6 0 0 1 0 8.400M4.600 4.600a10.500 10.500 0 0 0 0 14.800M19.400 4.600a10.500 10.500 0 0 1 0 14.800" />
    </svg>
  );
}

function LivePanel() {
  const all = useObservable(streams);
  return (
    <section className="explorer-live" aria-label="Live streams">
      <h2>Live streams</h2>
      {all.length === 0 && (
        <p>
          No stream is open. Run a subscription, for example the tab <b>EventStream</b>: it keeps running here while you work in other
          tabs.
        </p>
      )}
      {all.map((stream) => (
        <StreamCard key={stream.id} stream={stream} />
      ))}
    </section>
  );
}

function StreamCard({ stream }: { stream: Stream }) {
  const open = stream.state === 'open';
  return (
    <article data-state={stream.state}>
      <header>
        <i />
        <h3>{stream.name}</h3>
        <span>{stream.received === 1 ? '1 result' : `${stream.received.toLocaleString('en')} results`}</span>
        {open && (
          <button type="button" onClick={() => stopStream(stream.tab)}>
            Stop
          </button>
        )}
      </header>
      {stream.reason && <p>{stream.reason}</p>}
      {open && stream.items.length === 0 && <p>Listening. What arrives appears here.</p>}
      <ol>
        {stream.items.slice(0, SHOWN_ITEMS).map((item) => (
          <li key={item.number}>
            <ItemLine item={item} />
          </li>
        ))}
      </ol>
    </article>
  );
}

function ItemLine({ item }: { item: Item }) {
  const { title, facts } = summarize(item.result);
  return (
    <details>
      <summary>
        <b>{title}</b>
        <time dateTime={item.at.toISOString()}>{item.at.toLocaleTimeString([], { hour12: false })}</time>
        {facts && <span>{facts}</span>}
      </summary>
      <pre>{JSON.stringify(item.result.data ?? item.result, null, 2)}</pre>
    </details>
  );
}

/** The most telling text of a result, and its other short values: `order.placed`, `#813 · ada`. */
function summarize({ data, errors }: Result): { title: string; facts: string } {
  if (errors?.length && !data) return { title: 'Error', facts: errors[0]!.message };
  const [field, value] = Object.entries(data ?? {})[0] ?? ['data', null];
  const item = ((value as { node?: unknown } | null)?.node ?? value ?? {}) as Record<string, unknown>;
  const { eventType, seq, ...rest } = item;
  const facts = Object.entries(rest)
    .filter(([name, text]) => typeof text === 'string' && !/^(id|timestamp|cursor)$|(At|Id)$/.test(name))
    .map(([, text]) => text);
  const person = typeof rest.userId === 'string' ? [rest.userId] : [];
  return {
    title: typeof eventType === 'string' ? eventType : field,
    facts: [...(typeof seq === 'number' ? [`#${seq}`] : []), ...person, ...facts].join(' · '),
  };
}
