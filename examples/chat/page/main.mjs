// The page: three live queries of one room merged by time, and mutations that are shown at once.
import {Zero} from '@rocicorp/zero';
import {mutators, newID, queries, schema} from '../app.mjs';

const $ = id => document.getElementById(id);

function element(tag, properties = {}, ...children) {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...children);
  return node;
}

const config = await (await fetch('/config')).json();
const userID = sessionStorage.getItem('me') ?? config.users[0]?._id;
if (!userID) throw new Error('there are no users in the database');
const login = await fetch('/login', {method: 'POST', body: JSON.stringify({userID})});
const {token} = await login.json();

$('me').append(...config.users.map(({_id, name}) => new Option(name, _id, false, _id === userID)));
$('me').onchange = () => {
  sessionStorage.setItem('me', $('me').value);
  location.reload(); // a Zero client belongs to one user
};

const zero = new Zero({
  cacheURL: config.zeroURL,
  schema,
  mutators,
  userID,
  auth: token,
  context: {userID},
  kvStore: 'mem', // the demo's database forgets everything; a client that remembers would be ahead of it
});
zero.connection.state.subscribe(({name}) => {
  $('state').textContent = name;
  if (name === 'error') setTimeout(() => zero.connection.connect(), 5000); // else it waits for us
});

// A mutation is in the views already; here we only wait for the server's word.
async function mutate(request) {
  $('notice').textContent = '';
  const result = await zero.mutate(request).server;
  if (result.type === 'error') $('notice').textContent = result.error.message;
}

let roomId;
let open = [];

function show(id) {
  roomId = id;
  for (const view of open) view.destroy();
  const rows = {user: [], system: [], image: []};
  open = Object.keys(rows).map(kind => {
    const view = zero.materialize(queries.messages[kind]({roomId}));
    view.addListener(data => {
      rows[kind] = data.map(row => ({...row, kind}));
      draw(Object.values(rows).flat());
    });
    return view;
  });
  drawRooms();
}

function draw(messages) {
  const list = $('messages');
  const atEnd = list.scrollHeight - list.scrollTop - list.clientHeight < 40;
  messages.sort((a, b) => a.sentAt - b.sentAt || (a.id < b.id ? -1 : 1));
  list.replaceChildren(...messages.map(drawMessage));
  if (atEnd) list.scrollTop = list.scrollHeight;
}

let names = new Map();

function drawMessage(message) {
  const item = element('li', {className: message.kind, title: new Date(message.sentAt).toLocaleString()});
  if (message.kind !== 'system') item.append(element('b', {}, names.get(message.authorId) ?? message.authorId));
  if (message.kind === 'image') {
    item.append(element('img', {src: message.url, alt: '', width: message.width, height: message.height}));
  } else {
    item.append(message.text);
  }
  if (message.edited) item.append(element('small', {}, 'edited'));
  if (message.kind === 'user') {
    const {id} = message;
    const edit = () => {
      const text = prompt('Change the message', message.text);
      if (text !== null) mutate(mutators.message.edit({id, text}));
    };
    const remove = () => mutate(mutators.message.remove({id}));
    const tools = [element('button', {onclick: edit}, 'edit'), element('button', {onclick: remove}, 'delete')];
    item.append(element('small', {className: 'tools'}, ...tools));
  }
  return item;
}

let rooms = [];

function drawRooms() {
  $('rooms').replaceChildren(
    ...rooms.map(({id, name}) => {
      const button = element('button', {onclick: () => show(id)}, `# ${name}`);
      button.setAttribute('aria-current', id === roomId);
      return button;
    }),
  );
  $('topic').textContent = rooms.find(({id}) => id === roomId)?.topic ?? '';
}

zero.materialize(queries.users()).addListener(data => (names = new Map(data.map(({id, name}) => [id, name]))));
zero.materialize(queries.rooms()).addListener(data => {
  rooms = [...data];
  if (!roomId && rooms.length) show(rooms[0].id);
  else drawRooms();
});

$('send').onsubmit = event => {
  event.preventDefault();
  const {text} = event.target.elements;
  if (roomId) mutate(mutators.message.send({id: newID(), roomId, text: text.value}));
  text.value = '';
};

$('open').onsubmit = event => {
  event.preventDefault();
  const {name} = event.target.elements;
  mutate(mutators.room.add({id: newID(), name: name.value.trim(), topic: null}));
  name.value = '';
};
