/**
 * Bundles the explorer into transport/static/explorer: one esbuild call, then a manifest and compressed copies.
 *
 * Guarantees: every file's name carries the hash of its content, nothing refers to another host, and the folder holds
 * what this build made and nothing else. The server learns the names from manifest.json.
 */
import { build } from 'esbuild';
import { mkdir, readFile, rm, writeFile } from 'node:fs/promises';
import { basename, dirname, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { brotliCompress, constants, gzip } from 'node:zlib';

const here = dirname(fileURLToPath(import.meta.url));
const outdir = resolve(here, '../../transport/static/explorer');
/** Below this many bytes a compressed copy saves less than a packet. */
const WORTH_COMPRESSING = 1400;
const COMPRESSIBLE = /\.(js|css|svg|ttf)$/;

/** GraphiQL's style sheet already holds all of Monaco's, so the copies that Monaco imports are left out. */
const withoutMonacoStyles = {
  name: 'without-monaco-styles',
  setup({ onLoad }) {
    onLoad({ filter: /[\\/]monaco-editor[\\/].*\.css$/ }, () => ({ contents: '', loader: 'css' }));
  },
};

/** Fonts inlined in GraphiQL's style sheet become files: loaded when used, and `font-src` needs no `data:`. */
const fontsAsFiles = {
  name: 'fonts-as-files',
  setup({ onLoad, onResolve }) {
    const fonts = [];
    onLoad({ filter: /[\\/]graphiql[\\/]dist[\\/]style\.css$/ }, async ({ path }) => {
      const text = await readFile(path, 'utf8');
      const contents = text.replace(/url\(data:font\/(\w+);base64,([^)]+)\)/g, (_, kind, data) => {
        fonts.push({ kind, bytes: Buffer.from(data, 'base64') });
        return `url("inlined-font:${fonts.length - 1}.${kind}")`;
      });
      return { contents, loader: 'css', resolveDir: dirname(path) };
    });
    onResolve({ filter: /^inlined-font:/ }, ({ path }) => ({ path: path.replace('inlined-font:', 'font-'), namespace: 'font' }));
    onLoad({ filter: /.*/, namespace: 'font' }, ({ path }) => ({ contents: fonts[parseInt(path.slice('font-'.length), 10)].bytes, loader: 'file' }));
  },
};

await rm(outdir, { recursive: true, force: true });
await mkdir(outdir, { recursive: true });
const { metafile, outputFiles } = await build({
  absWorkingDir: here,
  entryPoints: {
    explorer: 'src/main.tsx',
    'editor.worker': 'src/workers/editor.ts',
    'graphql.worker': 'src/workers/graphql.ts',
    'json.worker': 'src/workers/json.ts',
    icon: 'src/icon.svg',
  },
  outdir,
  bundle: true,
  splitting: true,
  format: 'esm',
  target: ['es2022'],
  jsx: 'automatic',
  minify: true,
  metafile: true,
  write: false,
  legalComments: 'none',
  entryNames: '[name]-[hash]',
  chunkNames: 'chunk-[hash]',
  assetNames: '[name]-[hash]',
  define: { 'process.env.NODE_ENV': '"production"' },
  loader: { '.graphql': 'text', '.svg': 'copy', '.ttf': 'file' },
  plugins: [withoutMonacoStyles, fontsAsFiles],
  logLevel: 'warning',
});

/** The script's static imports, all the way down: what the page preloads so that nothing waits for a round trip. */
function preloads(output, seen = new Set()) {
  for (const { path, kind } of metafile.outputs[output].imports) {
    if (kind !== 'import-statement' || seen.has(path)) continue;
    seen.add(path);
    preloads(path, seen);
  }
  return [...seen];
}

/** Chunks of the editor, which the script imports once it runs. */
function editorChunks() {
  return Object.entries(metafile.outputs)
    .filter(([path, { inputs }]) => path.endsWith('.js') && Object.keys(inputs).some((input) => input.endsWith('monaco-graphql/esm/lite.js')))
    .map(([path]) => path);
}

const named = (entry) => Object.keys(metafile.outputs).find((path) => metafile.outputs[path].entryPoint === entry);
const script = named('src/main.tsx');
const manifest = {
  script: basename(script),
  style: basename(metafile.outputs[script].cssBundle),
  icon: basename(Object.keys(metafile.outputs).find((path) => path.endsWith('.svg'))),
  preload: [...new Set([...preloads(script), ...editorChunks().flatMap((chunk) => [chunk, ...preloads(chunk)])])].map((path) => basename(path)),
  workers: {
    editor: basename(named('src/workers/editor.ts')),
    graphql: basename(named('src/workers/graphql.ts')),
    json: basename(named('src/workers/json.ts')),
  },
  files: outputFiles.map(({ path }) => basename(path)).sort(),
};

const deflate = promisify(gzip);
const brotli = promisify(brotliCompress);
let total = 0;
let packed = 0;
await Promise.all(
  outputFiles.map(async ({ path, contents }) => {
    await writeFile(path, contents);
    total += contents.length;
    if (!COMPRESSIBLE.test(path) || contents.length < WORTH_COMPRESSING) {
      packed += contents.length;
      return;
    }
    const [gz, br] = await Promise.all([
      deflate(contents, { level: 9 }),
      brotli(contents, { params: { [constants.BROTLI_PARAM_SIZE_HINT]: contents.length } }),
    ]);
    packed += br.length;
    await Promise.all([writeFile(`${path}.gz`, gz), writeFile(`${path}.br`, br)]);
  }),
);
await writeFile(resolve(outdir, 'manifest.json'), `${JSON.stringify(manifest, null, 2)}\n`);
const kib = (bytes) => `${Math.round(bytes / 1024)} KiB`;
console.log(`explorer: ${outputFiles.length} files, ${kib(total)}, ${kib(packed)} over the wire`);
