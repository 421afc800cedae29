/** Where Monaco finds its three workers: files of this origin, named by the server's page. */
import { page } from './page';

interface MonacoHost {
  MonacoEnvironment: { getWorker(id: string, label: string): Worker };
}

(globalThis as unknown as MonacoHost).MonacoEnvironment = {
  getWorker(_id, label) {
    const { editor, graphql, json } = page.workers;
    const url = label === 'graphql' ? graphql : label === 'json' ? json : editor;
    return new Worker(url, { type: 'module' });
  },
};
