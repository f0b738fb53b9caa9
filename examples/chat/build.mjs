// The page's script, bundled: dist/page.js.
import {fileURLToPath} from 'node:url';
import * as esbuild from 'esbuild';

export const build = () =>
  esbuild.build({
    entryPoints: [fileURLToPath(new URL('page/main.mjs', import.meta.url))],
    outfile: fileURLToPath(new URL('dist/page.js', import.meta.url)),
    bundle: true,
    format: 'esm',
    target: 'es2022',
    logLevel: 'warning',
  });

if (import.meta.filename === process.argv[1]) await build();
