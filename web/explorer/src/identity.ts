/** Whom the key in the field belongs to, asked of the gateway whenever the key changes. */
import { ask } from './gateway';
import { apiKey } from './key';
import { Observable } from './observable';

const WHOAMI = 'query ExplorerIdentity { viewer { organization { name } project { name } role } }';

interface Viewer {
  organization: { name: string };
  project: { name: string };
  role: string;
}

export type Identity =
  | { state: 'none' | 'checking' | 'unknown' }
  | { state: 'known'; organization: string; project: string; role: string }
  | { state: 'refused' | 'unreachable'; reason: string };

export const identity = new Observable<Identity>({ state: 'none' });

async function identify(key: string): Promise<void> {
  if (!key) return identity.set({ state: 'none' });
  identity.set({ state: 'checking' });
  const found = await lookUp();
  if (key === apiKey.get()) identity.set(found);
}

async function lookUp(): Promise<Identity> {
  try {
    const { data, errors } = await ask(WHOAMI);
    const viewer = data?.viewer as Viewer | undefined;
    if (viewer) return { state: 'known', organization: viewer.organization.name, project: viewer.project.name, role: viewer.role };
    const refusal = errors?.find(({ extensions }) => extensions?.code === 'UNAUTHENTICATED');
    return refusal ? { state: 'refused', reason: refusal.message } : { state: 'unknown' };
  } catch (error) {
    return { state: 'unreachable', reason: (error as Error).message };
  }
}

apiKey.watch((key) => void identify(key));
void identify(apiKey.get());
