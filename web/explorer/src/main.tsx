/** The explorer's entry: the style nonce and the key first, before anything draws or sends. */
import './nonce';
import './key';
import './workers';

import { createRoot } from 'react-dom/client';

import { App } from './app';
import 'graphiql/style.css';
import './style.css';

createRoot(document.getElementById('explorer')!).render(<App />);
