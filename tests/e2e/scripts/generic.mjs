// Any tables: SCHEMA is a file as zmsd takes it, {table: {tableName?, columns, primaryKey}}.
// The queries: all rows of a table, or those where a column has a value; by primary key in order.
import fs from 'node:fs';
import {createBuilder, defineQueries, defineQuery} from '@rocicorp/zero';

export function load(file) {
  const tables = JSON.parse(fs.readFileSync(file, 'utf8'));
  for (const [name, table] of Object.entries(tables)) {
    table.name = name;
    if (table.tableName !== name) table.serverName = table.tableName;
    for (const column of Object.values(table.columns)) column.optional ??= false;
  }
  // What createSchema returns.
  const schema = {tables, relationships: {}, enableLegacyQueries: process.env.LEGACY_QUERIES === '1'};
  const zql = createBuilder(schema);
  const ordered = table =>
    tables[table].primaryKey.reduce((query, column) => query.orderBy(column, 'asc'), zql[table]);
  const queries = defineQueries({
    all: defineQuery(({args}) => ordered(args.table)),
    where: defineQuery(({args}) => ordered(args.table).where(args.column, '=', args.value)),
  });
  return {schema, zql, queries};
}

export const {schema, zql, queries} = load(process.env.SCHEMA);
