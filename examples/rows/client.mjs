// A Zero client that prints the rows, and prints them again at each change.
import {Zero} from '@rocicorp/zero';
import {queries, schema} from './app.mjs';

const {ZERO_URL = 'http://127.0.0.1:4848'} = process.env;

const zero = new Zero({cacheURL: ZERO_URL, schema, kvStore: 'mem'});
zero.materialize(queries.messages()).addListener((rows, state) => {
  if (state === 'complete') console.log(JSON.stringify(rows));
});
