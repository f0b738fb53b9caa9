// The API server: POST /query and /mutate for zero-cache, the page and its little login for people.
import {createHmac, timingSafeEqual} from 'node:crypto';
import {readFile} from 'node:fs/promises';
import http from 'node:http';
import {mustGetQuery} from '@rocicorp/zero';
import {handleMutateRequest, handleQueryRequest} from '@rocicorp/zero/server';
import {MongoClient} from 'mongodb';
import {queries, schema} from './app.mjs';
import {MongoDatabase} from './mongo.mjs';
import {run} from './mutations.mjs';

const {
  MONGODB_URI = 'mongodb://127.0.0.1:27017/zmsd_demo?replicaSet=rs0',
  PORT = '8080',
  SECRET = 'an example',
  ZERO_URL = 'http://127.0.0.1:4848',
} = process.env;

const client = await new MongoClient(MONGODB_URI).connect();
const database = new MongoDatabase(client);
await database.prepare();

// The token that zero-cache hands on from the page: the user's id and proof that we made it. No passwords: an example.
const proof = userID => createHmac('sha256', SECRET).update(userID).digest('base64url');

function userOf(request) {
  const token = (request.headers.authorization ?? '').replace(/^Bearer /, '');
  if (!token) return null;
  const [userID, given] = token.split(':').map(decodeURIComponent);
  const wanted = proof(userID);
  if (given?.length !== wanted.length || !timingSafeEqual(Buffer.from(given), Buffer.from(wanted))) {
    throw Object.assign(new Error('a token that is not ours'), {status: 401});
  }
  return userID;
}

async function bodyOf(request) {
  const chunks = [];
  for await (const chunk of request) chunks.push(chunk);
  return JSON.parse(Buffer.concat(chunks).toString() || 'null');
}

const page = name => async () => ({
  type: name.endsWith('.js') ? 'text/javascript' : 'text/html; charset=utf-8',
  text: await readFile(new URL(name, import.meta.url)),
});

const routes = {
  'GET /': page('page/index.html'),
  'GET /page.js': page('dist/page.js'),

  'GET /config': async () => ({
    zeroURL: ZERO_URL,
    users: await client.db().collection('users').find({}, {projection: {name: 1}}).sort({name: 1}).limit(100).toArray(),
  }),

  'POST /login': async request => {
    const {userID} = await bodyOf(request);
    if (!(await client.db().collection('users').findOne({_id: userID}))) {
      throw Object.assign(new Error('no such user'), {status: 403});
    }
    return {token: `${encodeURIComponent(userID)}:${proof(userID)}`};
  },

  'POST /query': async request =>
    handleQueryRequest({
      handler: (name, args) => mustGetQuery(queries, name).fn({args, ctx: undefined}),
      schema,
      body: await bodyOf(request),
      userID: userOf(request),
    }),

  'POST /mutate': async (request, url) => {
    const userID = userOf(request);
    return handleMutateRequest({
      dbProvider: database,
      handler: transact => transact((tx, name, args) => run(tx, userID, name, args)),
      query: url.searchParams,
      body: await bodyOf(request),
      userID,
      logLevel: 'error',
    });
  },
};

const server = http.createServer(async (request, response) => {
  const url = new URL(request.url, 'http://localhost');
  let [status, type, text] = [404, 'application/json', '{"error":"not found"}'];
  const route = routes[`${request.method} ${url.pathname}`];
  try {
    const answer = await route?.(request, url);
    if (answer) [status, type, text] = [200, answer.type ?? type, answer.text ?? JSON.stringify(answer)];
  } catch (error) {
    if (!error.status) console.error(error);
    [status, text] = [error.status ?? 500, JSON.stringify({error: error.message})];
  }
  response.writeHead(status, {'content-type': type});
  response.end(text);
});

server.listen(Number(PORT), '127.0.0.1', () =>
  console.log(JSON.stringify({event: 'listening', port: server.address().port})),
);

for (const signal of ['SIGINT', 'SIGTERM']) process.once(signal, () => process.exit(0));
