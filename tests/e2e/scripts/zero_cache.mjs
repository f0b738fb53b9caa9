// zero-cache with all its workers in this process. Started as node_modules/.bin/zero-cache it is six processes, and each
// loads the modules. SINGLE_PROCESS is zero-cache's own (packages/zero-cache/src/types/processes.ts in rocicorp/mono).
const from = path => import(new URL(`../node_modules/@rocicorp/zero/out/zero-cache/src/${path}`, import.meta.url).href);

process.env.SINGLE_PROCESS = '1';
const {LogContext, consoleLogSink} = await import('@rocicorp/logger');
const {exitAfter} = await from('services/life-cycle.js');
const {runWorker} = await from('server/runner/run-worker.js');
exitAfter(new LogContext('info', {}, consoleLogSink), () => runWorker(null, process.env));
