/** One line below the header while something keeps a newcomer from the first answer: no key, a wrong one, no gateway. */
import { identity } from './identity';
import { useObservable } from './observable';
import { page } from './page';

export function Hint() {
  const who = useObservable(identity);
  const known = who.state !== 'none' && who.state !== 'refused' && who.state !== 'unreachable';
  return (
    <div id="explorer-hint" className="explorer-hint" data-state={who.state} role="alert" hidden={known}>
      {who.state === 'none' && (
        <>
          <b>Paste an API key above to begin.</b> <Sentence text={page.keyHint} />
        </>
      )}
      {who.state === 'refused' && (
        <>
          <b>This key was not accepted.</b> {who.reason} <Sentence text={page.keyHint} />
        </>
      )}
      {who.state === 'unreachable' && <b>{who.reason}</b>}
    </div>
  );
}

/** Text in which `backticks` mark what to type. */
function Sentence({ text }: { text: string }) {
  return <>{text.split('`').map((part, index) => (index % 2 ? <code key={index}>{part}</code> : part))}</>;
}
