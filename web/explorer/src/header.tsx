/** The bar above the editor: whose product this is, which key is used, whom it belongs to, and whether the socket lives. */
import { useEffect, useId, useRef, useState } from 'react';

import { socketState } from './gateway';
import { type Identity, identity } from './identity';
import { apiKey } from './key';
import { useObservable } from './observable';
import { page } from './page';
import { streams } from './streams';

/** Long enough not to try half a key while somebody types, short enough not to be noticed after a paste. */
const SETTLE_MS = 350;

export function Header() {
  return (
    <header className="explorer-header">
      <Brand />
      <KeyField />
      <Who />
      <Socket />
    </header>
  );
}

function Brand() {
  return (
    <div className="explorer-brand">
      <svg viewBox="0 0 32 32" aria-hidden="true">
        <defs>
          <linearGradient id="brand" x1="0" y1="0" x2="1" y2="1">
            <stop offset="0" stopColor="#7c5cff" />
            <stop offset="1" stopColor="#e0489b" />
          </linearGradient>
        </defs>
        <rect width="32" height="32" rx="8" fill="url(#brand)" />
        <g fill="none" stroke="#fff" strokeWidth="2.6" strokeLinecap="round">
          <path d="M8 11h9M8 16h16M8 21h12" />
        </g>
        <circle cx="22.5" cy="11" r="2.3" fill="#fff" />
      </svg>
      <h1>{page.title}</h1>
      <span>GraphiQL</span>
    </div>
  );
}

function KeyField() {
  const id = useId();
  const key = useObservable(apiKey);
  const [text, setText] = useState(key);
  const [shown, setShown] = useState(false);
  const field = useRef<HTMLInputElement>(null);
  useEffect(() => setText(key), [key]);
  useEffect(() => {
    if (text.trim() === key) return undefined;
    const timer = setTimeout(() => apiKey.set(text.trim()), SETTLE_MS);
    return () => clearTimeout(timer);
  }, [text, key]);
  useEffect(() => {
    if (!apiKey.get()) field.current?.focus();
  }, []);
  const { state } = useObservable(identity);
  return (
    <form
      className="explorer-key"
      data-state={state}
     
      aria-label="Credentials"
      onSubmit={(event) => {
        event.preventDefault();
        apiKey.set(text.trim());
      }}
    >
      <label htmlFor={id}>API key</label>
      <input
        id={id}
        ref={field}
        type={shown ? 'text' : 'password'}
        value={text}
        onChange={(event) => setText(event.target.value)}
        placeholder="Paste a key: sk_… or pk_…"
        autoComplete="off"
        autoCapitalize="off"
        spellCheck={false}
        data-1p-ignore=""
        data-lpignore="true"
        aria-describedby="explorer-hint"
      />
      {text && (
        <button type="button" onClick={() => setShown(!shown)} aria-pressed={shown}>
          {shown ? 'Hide' : 'Show'}
        </button>
      )}
      {text && (
        <button type="button" onClick={() => apiKey.set('')} aria-label="Forget the key">
          ✕
        </button>
      )}
    </form>
  );
}

function Who() {
  const who = useObservable(identity);
  return (
    <div className="explorer-who" role="status" data-state={who.state}>
      {describe(who)}
    </div>
  );
}

function describe(who: Identity) {
  switch (who.state) {
    case 'none':
      return 'No key';
    case 'checking':
      return 'Checking the key…';
    case 'unknown':
      return 'Key set';
    case 'known':
      return (
        <>
          <span className="explorer-project" title={`${who.organization} / ${who.project}`}>
            {who.organization} <i>/</i> {who.project}
          </span>
          <b>{who.role}</b>
        </>
      );
    case 'refused':
      return 'Key not accepted';
    case 'unreachable':
      return 'No answer';
  }
}

const SOCKET_LABEL = { idle: 'Socket idle', connecting: 'Connecting…', open: 'Live', lost: 'Reconnecting…' };

function Socket() {
  const state = useObservable(socketState);
  const open = useObservable(streams).filter((stream) => stream.state === 'open').length;
  const shown = open === 0 ? 'idle' : state;
  return (
    <div className="explorer-socket" data-state={shown} role="status" aria-label="Streams">
      <i />
      {SOCKET_LABEL[shown]}
      {open > 0 && state === 'open' && <span>{open === 1 ? '1 stream' : `${open} streams`}</span>}
    </div>
  );
}
