// What the client and the query endpoint share: the table of README.rst, and a query.
import {createBuilder, createSchema, defineQueries, defineQuery, number, string, table} from '@rocicorp/zero';

const message = table('message')
  .columns({id: string(), content: string().optional(), createdAt: number().optional()})
  .primaryKey('id');

export const schema = createSchema({tables: [message]});
const zql = createBuilder(schema);

export const queries = defineQueries({
  messages: defineQuery(() => zql.message.orderBy('createdAt', 'asc')),
});
