// The query endpoint for generic.mjs; it reads the file SCHEMA for each request. PORT 0 takes a free port.
import http from 'node:http';
import {mustGetQuery} from '@rocicorp/zero';
import {handleQueryRequest} from '@rocicorp/zero/server';
import {load} from './generic.mjs';

const server = http.createServer(async (request, response) => {
  let text = '';
  for await (const chunk of request) text += chunk;
  const {schema, queries} = load(process.env.SCHEMA);
  // In this form every version since 0.25 has it.
  const handler = (name, args) => mustGetQuery(queries, name).fn({args, ctx: undefined});
  const answer = await handleQueryRequest(handler, schema, JSON.parse(text), 'error');
  response.writeHead(200, {'content-type': 'application/json'});
  response.end(JSON.stringify(answer));
});
server.listen(Number(process.env.PORT ?? 0), '127.0.0.1', () =>
  console.log(JSON.stringify({event: 'listening', port: server.address().port})),
);
process.stdin.on('end', () => process.exit(0)).resume();
