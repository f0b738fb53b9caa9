// What each mutation does on the server. `tx` is {db, session} of one MongoDB transaction; throwing refuses it.
import {ApplicationError} from '@rocicorp/zero/server';
import {ObjectId} from 'mongodb';

const refuse = (message, details) => {
  throw new ApplicationError(message, {details});
};

function checkedText(text) {
  const trimmed = String(text ?? '').trim();
  if (!trimmed) refuse('A message needs a text.');
  if (trimmed.length > 500) refuse('A message has at most 500 characters.', {length: trimmed.length});
  return trimmed;
}

// Only the author may change a message.
async function ownMessage({db, session}, userID, id) {
  const message = await db.collection('messages').findOne({_id: new ObjectId(id), t: 'user'}, {session});
  if (!message) refuse('The message is gone.');
  if (message.author.id !== userID) refuse('Only the author may do that.', {author: message.author.id});
  return message;
}

const mutations = {
  async 'room.add'({db, session}, userID, {id, name, topic}) {
    if (!String(name ?? '').trim()) refuse('A room needs a name.');
    if (await db.collection('rooms').findOne({name}, {session})) refuse(`There is a room ${name} already.`);
    await db.collection('rooms').insertOne({_id: id, name, topic: topic ?? null}, {session});
    await db
      .collection('messages')
      .insertOne({room: id, t: 'system', text: `${userID} opened the room`, sentAt: new Date()}, {session});
  },

  async 'message.send'({db, session}, userID, {id, roomId, text}) {
    const checked = checkedText(text);
    if (!(await db.collection('rooms').findOne({_id: roomId}, {session}))) refuse('The room is gone.');
    const message = {room: roomId, t: 'user', author: {id: userID}, text: checked, edited: false, sentAt: new Date()};
    await db.collection('messages').insertOne({_id: new ObjectId(id), ...message}, {session});
  },

  async 'message.edit'(tx, userID, {id, text}) {
    const {_id} = await ownMessage(tx, userID, id);
    const change = {$set: {text: checkedText(text), edited: true}};
    await tx.db.collection('messages').updateOne({_id}, change, {session: tx.session});
  },

  async 'message.remove'(tx, userID, {id}) {
    const {_id} = await ownMessage(tx, userID, id);
    await tx.db.collection('messages').deleteOne({_id}, {session: tx.session});
  },
};

export async function run(tx, userID, name, args) {
  if (!Object.hasOwn(mutations, name)) refuse(`There is no mutation ${name}.`);
  if (!userID) refuse('Log in first.');
  await mutations[name](tx, userID, args);
}
