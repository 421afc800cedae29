/** GraphiQL with the gateway's fetcher, examples and streams; the parts of it that need to know about each other. */
import { GraphiQL } from 'graphiql';
import { useGraphiQL, useGraphiQLActions } from '@graphiql/react';
import { HISTORY_PLUGIN } from '@graphiql/plugin-history';
import { useEffect, useRef } from 'react';

import { EXAMPLES } from './examples';
import { fetcher, lastExchange } from './fetcher';
import type { Exchange } from './gateway';
import { Header } from './header';
import { Hint } from './hint';
import { apiKey } from './key';
import { LIVE } from './live';
import { useObservable } from './observable';
import { isOpenInAnotherTab, isWaitingToBeShown, showTab, streams } from './streams';
import { storage } from './storage';

const PLUGINS = [HISTORY_PLUGIN, LIVE];
/** What the variables editor checks custom scalars against; by default it takes JSON for a plain value. */
const SCALARS = { JSON: {}, DateTime: { type: 'string' }, Cursor: { type: 'string' }, BigInt: { type: 'integer' } } as const;

interface Tabs {
  tabs: readonly { id: string }[];
  activeTabIndex: number;
}

function tellStreams({ tabs, activeTabIndex }: Tabs): void {
  showTab(tabs[activeTabIndex]?.id ?? '', tabs.map(({ id }) => id));
}

export function App() {
  return (
    <>
      <Header />
      <Hint />
      <GraphiQL
        fetcher={fetcher}
        storage={storage}
        defaultTabs={EXAMPLES}
        plugins={PLUGINS}
        defaultEditorToolsVisibility="variables"
        shouldPersistHeaders={false}
        showPersistHeadersSettings={false}
        customScalarSchemas={SCALARS}
        inputValueDeprecation
        schemaDescription
        onTabChange={tellStreams}
      >
        <GraphiQL.Logo>
          <span />
        </GraphiQL.Logo>
        <GraphiQL.Footer>
          <ResponseFooter />
        </GraphiQL.Footer>
        <KeyWatch />
        <StreamWatch />
      </GraphiQL>
    </>
  );
}

/** Reads the schema again when the key changes, and takes the old failure off the response pane once that worked. */
function KeyWatch() {
  const key = useObservable(apiKey);
  const { introspect } = useGraphiQLActions();
  const { fetchError, responseEditor } = useGraphiQL(({ fetchError, responseEditor }) => ({ fetchError, responseEditor }));
  const first = useRef(true);
  const shownError = useRef<string | null>(null);
  useEffect(() => {
    if (!first.current) void introspect();
    first.current = false;
  }, [key, introspect]);
  useEffect(() => {
    if (fetchError) shownError.current = fetchError;
    else if (shownError.current && responseEditor?.getValue() === shownError.current) responseEditor.setValue('');
  }, [fetchError, responseEditor]);
  return null;
}

/** Hands a stream back to its tab, opens the panel when one goes on out of sight, and marks the tabs that listen. */
function StreamWatch() {
  const { run, stop } = useGraphiQLActions();
  const { tabs, activeTabIndex, visiblePlugin, queryEditor, variableEditor } = useGraphiQL((state) => ({
    tabs: state.tabs,
    activeTabIndex: state.activeTabIndex,
    visiblePlugin: state.visiblePlugin,
    queryEditor: state.queryEditor,
    variableEditor: state.variableEditor,
  }));
  const all = useObservable(streams);
  const shown = tabs[activeTabIndex]?.id;
  useEffect(() => tellStreams({ tabs, activeTabIndex }), [tabs, activeTabIndex]);
  useEffect(() => {
    stop();
    if (queryEditor && isWaitingToBeShown()) void run();
    lastExchange.set(null);
    if (isOpenInAnotherTab() && !visiblePlugin) showPanel();
    // Only a change of tabs hands a stream over; the panel stays as the user left it afterwards.
  }, [shown]);
  useEffect(() => {
    // GraphiQL starts the first of its default tabs without that tab's variables.
    const { variables } = tabs[activeTabIndex] ?? {};
    if (variables && variableEditor?.getValue() === '') variableEditor.setValue(variables);
  }, [variableEditor]);
  useEffect(() => {
    tabs.forEach(({ id }, index) => {
      const listening = all.some(({ tab, state }) => tab === id && state === 'open');
      document.getElementById(`graphiql-session-tab-${index}`)?.toggleAttribute('data-listening', listening);
    });
  }, [tabs, all]);
  return null;
}

/** GraphiQL unfolds its panel only for its own button: the action behind it would leave the panel hidden. */
function showPanel(): void {
  document.querySelector<HTMLButtonElement>(`.graphiql-sidebar [aria-label="Show ${LIVE.title}"]`)?.click();
}

/** Below the response: how long the answer took, or what the stream of this tab is doing. */
function ResponseFooter() {
  const exchange = useObservable(lastExchange);
  const all = useObservable(streams);
  const { tab, quiet } = useGraphiQL(({ tabs, activeTabIndex, fetchError, isFetching }) => ({
    tab: tabs[activeTabIndex],
    quiet: !tabs[activeTabIndex]?.response && !fetchError && !isFetching,
  }));
  const stream = all.find((other) => other.tab === tab?.id);
  if (stream?.state === 'open') return <Listening received={stream.received} />;
  if (exchange) return <Answered exchange={exchange} />;
  return quiet ? (
    <p className="explorer-empty">
      Press <b>▶</b> or <kbd>Ctrl</kbd> <kbd>Enter</kbd> to run <b>{tab?.title}</b>
    </p>
  ) : null;
}

function Listening({ received }: { received: number }) {
  return (
    <>
      {received === 0 && <p className="explorer-empty">Listening. What arrives appears here.</p>}
      <div className="explorer-footer" data-state="open" role="status">
        <i /> Listening
        <span>{received === 1 ? '1 result' : `${received.toLocaleString('en')} results`}</span>
      </div>
    </>
  );
}

function Answered({ exchange: { status, milliseconds, bytes } }: { exchange: Exchange }) {
  return (
    <div className="explorer-footer" data-state={status < 300 ? 'good' : 'bad'} role="status">
      <i /> {status}
      <span>{Math.max(1, Math.round(milliseconds))} ms</span>
      <span>{bytes < 1024 ? `${bytes} B` : `${(bytes / 1024).toFixed(1)} KiB`}</span>
    </div>
  );
}
