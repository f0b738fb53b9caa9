// What the page and the API server share: the schema, the queries, and what each mutation does at once in the page.
import {
  boolean,
  createBuilder,
  createSchema,
  defineMutator,
  defineMutators,
  defineQueries,
  defineQuery,
  number,
  string,
  table,
} from '@rocicorp/zero';

const user = table('user').columns({id: string(), name: string(), online: boolean()}).primaryKey('id');

const room = table('room').columns({id: string(), name: string(), topic: string().optional()}).primaryKey('id');

// The three kinds of document in the one collection `messages`.
const userMessage = table('userMessage')
  .columns({
    id: string(),
    roomId: string(),
    authorId: string(),
    text: string(),
    edited: boolean(),
    sentAt: number(),
  })
  .primaryKey('id');

const systemMessage = table('systemMessage')
  .columns({id: string(), roomId: string(), text: string(), sentAt: number()})
  .primaryKey('id');

const imageMessage = table('imageMessage')
  .columns({
    id: string(),
    roomId: string(),
    authorId: string(),
    url: string(),
    width: number(),
    height: number(),
    sentAt: number(),
  })
  .primaryKey('id');

export const schema = createSchema({tables: [user, room, userMessage, systemMessage, imageMessage]});
export const zql = createBuilder(schema);

// The last hundred of one kind in a room.
const recent = messages =>
  defineQuery(({args}) => messages.where('roomId', args.roomId).orderBy('sentAt', 'desc').limit(100));

export const queries = defineQueries({
  users: defineQuery(() => zql.user.orderBy('name', 'asc')),
  rooms: defineQuery(() => zql.room.orderBy('name', 'asc')),
  messages: {
    user: recent(zql.userMessage),
    system: recent(zql.systemMessage),
    image: recent(zql.imageMessage),
  },
});

// Shown at once, replaced by what the server wrote (server.mjs), taken back when the server refuses.
export const mutators = defineMutators({
  room: {
    add: defineMutator(({tx, args: {id, name, topic}}) => tx.mutate.room.insert({id, name, topic})),
  },
  message: {
    send: defineMutator(({tx, ctx, args: {id, roomId, text}}) =>
      tx.mutate.userMessage.insert({id, roomId, authorId: ctx.userID, text, edited: false, sentAt: Date.now()}),
    ),
    edit: defineMutator(({tx, args: {id, text}}) => tx.mutate.userMessage.update({id, text, edited: true})),
    remove: defineMutator(({tx, args: {id}}) => tx.mutate.userMessage.delete({id})),
  },
});

// An ObjectId made in the page, so that the optimistic row and the document have the same key.
export function newID() {
  const bytes = crypto.getRandomValues(new Uint8Array(12));
  new DataView(bytes.buffer).setUint32(0, Date.now() / 1000);
  return Array.from(bytes, byte => byte.toString(16).padStart(2, '0')).join('');
}

// For tests/e2e/scripts/client.mjs.
export const context = env => ({userID: env.USER_ID ?? null});
