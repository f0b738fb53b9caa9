// npm start: builds the page, then runs zero-cache and the API server until Ctrl-C.
import {spawn} from 'node:child_process';
import {mkdir} from 'node:fs/promises';
import {fileURLToPath} from 'node:url';
import {build} from './build.mjs';

const here = fileURLToPath(new URL('.', import.meta.url));
const {
  POSTGRES_URL = 'postgresql://postgres@127.0.0.1:5432/postgres',
  ZMSD_URL = 'ws://127.0.0.1:3000/changes/v0/stream',
  PORT = '8080',
  ZERO_PORT = '4848',
} = process.env;

await mkdir(`${here}dist`, {recursive: true});
await build();

const children = [];

// Run a child process with this terminal as its output. When one child ends, all end. The exception is zero-cache with
// exit code 14: it needs a new initial sync, because MongoDB is another one, and expects to be restarted.
function start(name, script, env) {
  const child = spawn(process.execPath, [script], {cwd: here, env: {...process.env, ...env}, stdio: 'inherit'});
  child.on('exit', code => (code === 14 && !stopping ? start(name, script, env) : stop(`${name} ended with ${code}`, 1)));
  children.push(child);
}

let stopping = false;
function stop(reason, code) {
  if (stopping) return;
  stopping = true;
  console.log(reason);
  for (const child of children) child.kill('SIGTERM');
  process.exitCode = code;
}
for (const signal of ['SIGINT', 'SIGTERM']) process.on(signal, () => stop('stopping', 0));

// The package's command `zero-cache`.
start('zero-cache', fileURLToPath(new URL('cli.js', import.meta.resolve('@rocicorp/zero'))), {
  ZERO_UPSTREAM_TYPE: 'custom',
  ZERO_UPSTREAM_DB: ZMSD_URL,
  ZERO_CVR_DB: POSTGRES_URL,
  ZERO_CHANGE_DB: POSTGRES_URL,
  ZERO_APP_ID: process.env.ZERO_APP_ID ?? 'zero',
  ZERO_PORT,
  ZERO_REPLICA_FILE: process.env.ZERO_REPLICA_FILE ?? `${here}dist/zero.db`,
  ZERO_NUM_SYNC_WORKERS: '1',
  ZERO_TASK_ID: 'chat', // the one it makes up may begin with -, and then it takes it for an option and ends
  ZERO_ADMIN_PASSWORD: process.env.ZERO_ADMIN_PASSWORD ?? 'example',
  ZERO_LOG_LEVEL: process.env.ZERO_LOG_LEVEL ?? 'warn',
  ZERO_ENABLE_TELEMETRY: 'false',
  ZERO_QUERY_URL: `http://127.0.0.1:${PORT}/query`,
  ZERO_MUTATE_URL: `http://127.0.0.1:${PORT}/mutate`,
});
start('the API server', 'server.mjs', {PORT, ZERO_URL: `http://127.0.0.1:${ZERO_PORT}`});
console.log(`the page: http://127.0.0.1:${PORT}/`);
