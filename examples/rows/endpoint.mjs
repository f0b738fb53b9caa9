// ZERO_QUERY_URL: zero-cache asks here which rows a query may read. Everybody may read everything: an example.
import http from 'node:http';
import {mustGetQuery} from '@rocicorp/zero';
import {handleQueryRequest} from '@rocicorp/zero/server';
import {queries, schema} from './app.mjs';

const {PORT = '8080'} = process.env;

const server = http.createServer(async (request, response) => {
  let body = '';
  for await (const chunk of request) body += chunk;
  const query = (name, args) => mustGetQuery(queries, name).fn({args, ctx: undefined});
  const answer = await handleQueryRequest(query, schema, JSON.parse(body), 'error');
  response.writeHead(200, {'content-type': 'application/json'});
  response.end(JSON.stringify(answer));
});
server.listen(Number(PORT), '127.0.0.1', () => console.log(`http://127.0.0.1:${server.address().port}/query`));
