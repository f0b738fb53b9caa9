// A real Zero client driven by JSON lines on its standard input; it prints what happens as JSON lines.
// CACHE_URL: zero-cache. APP: a module exporting {schema, queries, mutators?, zql?, context?}. USER_ID, AUTH: as Zero
// takes them. EVERY=1 prints every state of a view; without it, states that follow fast on one another are left out.
import readline from 'node:readline';
import path from 'node:path';
import {pathToFileURL} from 'node:url';
import {Zero} from '@rocicorp/zero';

const {schema, queries, mutators, zql, context} = await import(pathToFileURL(path.resolve(process.env.APP)));
const say = message => process.stdout.write(JSON.stringify(message) + '\n');
const at = (registry, name) => name.split('.').reduce((node, part) => node[part], registry);

const views = [];
let zero;

// Offline, its sockets are closed and none can be opened; Zero keeps trying.
const sockets = new Set();
let offline = false;
globalThis.WebSocket = class extends WebSocket {
  constructor(url, protocols) {
    super(offline ? 'ws://127.0.0.1:1/' : url, protocols);
    sockets.add(this);
    this.addEventListener('close', () => sockets.delete(this));
  }
};

function open() {
  zero = new Zero({
    cacheURL: process.env.CACHE_URL,
    schema,
    mutators,
    kvStore: 'mem',
    logLevel: process.env.LOG_LEVEL ?? 'error',
    // On a busy machine zmsd and zero-cache may need longer than the default of a minute for a restart.
    disconnectTimeoutMs: 600_000,
    ...(process.env.USER_ID ? {userID: process.env.USER_ID} : {}),
    ...(process.env.AUTH ? {auth: process.env.AUTH} : {}),
    ...(context ? {context: context(process.env)} : {}),
    onUpdateNeeded: reason => say({event: 'update-needed', reason}),
    // In a browser the page is loaded again: zero-cache was killed with a part of this client's state not yet written.
    onClientStateNotFound() {
      say({event: 'client-state-not-found'});
      zero.close();
      open();
    },
  });
  say({event: 'started', clientID: zero.clientID});
  zero.connection.state.subscribe(({name, reason}) => say({event: 'connection', name, reason: String(reason ?? '')}));
  for (const view of views) show(view);
}

// Without a query: all of the table of the view's name, as a legacy query; permissions are checked for those.
function show({view, query, args}) {
  let state;
  let timer;
  const print = () => {
    timer = undefined;
    say({event: 'view', view, ...state});
  };
  const shown = query ? at(queries, query)(args ?? undefined) : zql[view];
  zero.materialize(shown).addListener((rows, result, error) => {
    state = {rows: rows ?? [], complete: result === 'complete', error: error && String(error.message ?? error)};
    if (process.env.EVERY === '1') print();
    else timer ??= setTimeout(print, 50);
  });
}

const settled = (id, phase, promise) =>
  promise.then(
    result => say({event: 'mutation', id, phase, result: result ?? {type: 'success'}}),
    error => say({event: 'mutation', id, phase, result: {type: 'rejected', error: {message: error?.message}}}),
  );

const commands = {
  offline() {
    offline = true;
    for (const socket of sockets) socket.close();
  },
  online() {
    offline = false;
  },
  materialize(view) {
    views.push(view);
    show(view);
  },
  mutate({id, name, args}) {
    const mutation = zero.mutate(at(mutators, name)(args));
    settled(id, 'client', mutation.client);
    settled(id, 'server', mutation.server);
  },
};

open();
for await (const line of readline.createInterface({input: process.stdin})) {
  const command = JSON.parse(line);
  commands[command.op](command);
}
process.exit(0);
