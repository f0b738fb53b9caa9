"use strict";
// Data is inserted as text only: a string that append() gets never becomes markup.
const id = name => document.getElementById(name);
const present = child => child !== null && child !== undefined && child !== "";
function make(tag, attributes, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) node.setAttribute(name, value);
  node.append(...children.flat(Infinity).filter(present).map(child => child instanceof Node ? child : String(child)));
  return node;
}
// What has not changed stays in the document, with its selection and focus.
function update(node, ...children) {
  const next = node.cloneNode(false);
  next.append(...children.flat(Infinity).filter(present));
  if (next.innerHTML !== node.innerHTML) node.replaceChildren(...next.childNodes);
}
const fill = (name, ...children) => update(id(name), ...children);

const count = number => new Intl.NumberFormat("en").format(number);
const several = (number, what) => `${count(number)} ${what}${number === 1 ? "" : "s"}`;
const digits = number => number >= 100 ? count(Math.round(number)) : String(Number(number.toPrecision(2)));
function bytes(number) {
  for (const unit of ["B", "kB", "MB", "GB"]) {
    if (number < 1000 || unit === "GB") return `${digits(number)} ${unit}`;
    number /= 1000;
  }
}
function duration(seconds) {
  if (seconds < 0) return `−${duration(-seconds)}`;
  if (seconds < 1) return seconds === 0 ? "0 s" : `${digits(seconds * 1000)} ms`;
  if (seconds < 10) return `${seconds.toFixed(1)} s`;
  if (seconds < 120) return `${Math.round(seconds)} s`;
  const minutes = Math.floor(seconds / 60), hours = Math.floor(minutes / 60), days = Math.floor(hours / 24);
  if (hours < 1) return `${minutes} min`;
  if (days < 2) return `${hours} h ${minutes % 60} min`;
  if (days >= 30) return several(days, "day");
  return `${days} d ${hours % 24} h`;
}
const whole = seconds => seconds < 10 ? `${Math.max(Math.round(seconds), 0)} s` : duration(Math.round(seconds));
const ago = seconds => seconds < 1.5 ? "just now" : `${whole(seconds)} ago`;
// Characters that cannot be seen, or that change the direction of text, as escapes.
const plain = text => text.replace(/[\u0000-\u001f\u007f-\u009f\u200b-\u200f\u2028-\u202e\u2066-\u2069\ufeff]/g,
  character => `\\u${character.charCodeAt(0).toString(16).padStart(4, "0")}`);
const day = seconds => new Date(seconds * 1000).toISOString().slice(0, 10);
const unknown = "–";
const known = (value, format) => value === null || value === undefined ? unknown : format(value);
const small = (...text) => make("small", {}, ...text);
const badge = (level, text) => make("span", {class: `badge ${level}`}, text);

// GRAPHS

const points = 150;
let every = 2;  // seconds between points
const minutes = () => several(Math.round(points * every / 60), "minute");

// Round up, so that the scale does not change with every sample.
function scale(most) {
  const top = 10 ** Math.ceil(Math.log10(most || 1));
  return most > 0 ? [5, 2].map(part => top / part).find(part => part >= most) || top : top;
}
// The newest of the values is at the right edge; null is a gap.
function drawing(values, height, top, attributes) {
  const width = 300;
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const add = (tag, shape) => {
    const node = document.createElementNS(svg.namespaceURI, tag);
    for (const [key, value] of Object.entries(shape)) node.setAttribute(key, value);
    svg.append(node);
  };
  const shown = {viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: "none", role: "img", ...attributes};
  for (const [key, value] of Object.entries(shown)) svg.setAttribute(key, value);
  for (const y of height < 50 ? [height] : [0, height / 2, height]) add("line", {x1: 0, x2: width, y1: y, y2: y});
  const x = number => (width - (values.length - 1 - number) * width / (points - 1)).toFixed(1);
  const y = value => (height - Math.min(value / top, 1) * height).toFixed(1);
  let run = [];
  values.forEach((value, number) => {
    if (value !== null) run.push(number);
    if (run.length && (value === null || number === values.length - 1)) {
      const curve = run.map(one => `${x(one)},${y(values[one])}`).join(" L");
      add("path", {class: "area", d: `M${x(run[0])},${height} L${curve} L${x(run[run.length - 1])},${height} Z`});
      add("path", {class: "curve", d: `M${curve}`});
      run = [];
    }
  });
  return svg;
}
function graph(name, label, values, format) {
  const most = Math.max(...values, 0), top = scale(most);
  fill(name, make("p", {class: "scale"}, format(top)),
    drawing(values, 80, top, {"aria-label": `${label}, at most ${format(most)}`}),
    make("figcaption", {}, make("span", {}, `${minutes()} ago`), make("span", {}, "now")));
}
function spark(values) {
  const seen = values.filter(value => value !== null), most = Math.max(...seen, 0);
  if (seen.length === 0) return unknown;
  const text = `at most ${duration(most)}`;
  // Below 100 ms the curve stays low: a lag of some milliseconds should not look like a peak.
  return [drawing(values, 30, Math.max(scale(most), .1), {class: "spark", "aria-label": `lag in ${minutes()}, ${text}`}),
    small(text)];
}

// LISTS

// Columns are [label, classes]. A row is {key, cells, body, more}: body is shown when the row is opened, more always.
const rows = new Map();
function list(name, columns, items, empty) {
  const head = make("div", {class: "row head"}, columns.map(([label, kind]) => make("div", {class: `cell ${kind}`}, label)));
  const shown = items.map(item => {
    const key = `${name} ${item.key}`;
    if (!rows.has(key)) {
      const opens = item.body !== undefined;
      const node = make(opens ? "details" : "div", {class: "item"}, make(opens ? "summary" : "div", {class: "row"}));
      if (opens) node.append(make("div", {class: "body"}));
      rows.set(key, node);
    }
    const node = rows.get(key);
    update(node.firstChild, columns.map(([label, kind], number) =>
      make("div", {class: `cell ${kind}`, "data-label": label}, [item.cells[number]].flat())));
    if (item.body !== undefined) update(node.querySelector(".body"), item.body);
    else {
      while (node.childNodes.length > 1) node.lastChild.remove();
      if (item.more) node.append(make("div", {class: "more"}, item.more));
    }
    return node;
  });
  for (const [key, node] of rows) if (key.startsWith(`${name} `) && !shown.includes(node)) rows.delete(key);
  const old = [...id(name).children].slice(1);
  if (shown.length === 0) fill(name, make("p", {class: "empty"}, empty));
  else if (old.length !== shown.length || old.some((node, number) => node !== shown[number])) id(name).replaceChildren(head, ...shown);
}

// CLIENTS

function session(one, now) {
  return {
    key: one.number,
    cells: [
      [`${one.app}/${one.shard}`, small(one.address), small(one.replica ? `replica ${one.replica}` : "initial sync")],
      spark(one.lags || []),
      [one.state, small(`for ${whole(now - one.since)}`)],
      one.acked_age === null ? unknown : ago(one.acked_age),
      one.backlog_seconds === null ? unknown : one.backlog_seconds === 0 ? "nothing"
        : [duration(one.backlog_seconds), small(one.backlog_transactions === null ? "reading the oplog"
          : several(one.backlog_transactions, "transaction"))],
      [several(one.rows, "row"), small(bytes(one.bytes))],
    ],
    more: one.copy && progress(one),
  };
}
function progress({app, shard, copy}) {
  const part = copy.estimated ? Math.min(copy.documents / copy.estimated, 1) : 0;
  const done = make("i", {});
  done.style.width = `${part * 100}%`;
  const bar = make("div", {class: "bar", role: "progressbar", "aria-valuenow": Math.floor(part * 100), "aria-valuemin": 0,
    "aria-valuemax": 100, "aria-label": `initial sync or schema change of ${app}/${shard}`}, done);
  const left = copy.eta_seconds === null ? "" : `, about ${whole(copy.eta_seconds)} left`;
  return [bar, small(`${Math.floor(part * 100)} % sent: ${count(copy.documents)} of about ${several(copy.estimated, "document")}, `
    + `now in ${copy.collection || unknown}, ${count(copy.rows_per_second)} rows/s${left}`)];
}

// COLLECTIONS

let specs = {publication: null, tables: []};  // of /metadata/tables
const kinds = {collection: "missing", type: "not a collection"};

function collection(one, problems) {
  const own = problems.filter(problem => problem.kind !== "field" && problem.name === one.name);
  const tables = specs.tables.filter(table => table.tableMapping.collection === one.name);
  const fields = problems.filter(problem => problem.kind === "field"
    && tables.some(table => problem.name.startsWith(`${table.name}.`)));
  const missing = own.find(problem => problem.kind !== "images");
  const images = one.images ? "Pre- and post-images are on." : `Pre- and post-images are off: ${one.images_note || "the reason is unknown"}.`;
  return {
    key: one.name,
    cells: [
      [one.name, missing ? [" ", badge("warn", kinds[missing.kind] || missing.kind)] : null,
        fields.length ? [" ", badge("warn", several(fields.length, "missing field"))] : null,
        one.tables.join() === one.name ? null : small(one.tables.join(", "))],
      `${digits(one.rate)}/s`, known(one.lag, duration), count(one.events),
      known(one.queue, ([held, limit]) => `${held} of ${limit}`),
      one.images ? "on" : own.length ? badge("warn", "off") : "off",
    ],
    body: [
      ...own.filter(problem => problem.kind !== "images").map(problem => make("p", {class: "small warn"}, `${problem.name} ${problem.reason}.`)),
      make("p", {class: `small ${own.length ? "warn" : "quiet"}`}, images),
      tables.length ? make("div", {class: "tables"}, tables.map(table => published(table, fields))) : null,
      ...one.tables.filter(name => !tables.some(table => table.name === name)).map(name => make("h3", {}, name)),
    ],
  };
}
function published(table, problems) {
  const mapping = table.tableMapping, fields = mapping.fields || {};
  const forms = ["filter", "projection", "pipeline"].filter(form => mapping[form] !== undefined);
  const column = ([name, spec]) => {
    const problem = problems.find(one => one.name === `${table.name}.${name}`), level = problem ? "warn" : "";
    const key = table.primaryKey.includes(name);
    return [
      make("tr", {class: level}, make("td", {class: "free"}, name, key ? [" ", badge("quiet", "key")] : null),
        make("td", {class: "tight"}, spec.type, spec.notNull ? "" : ", optional"),
        make("td", {class: "free"}, Object.hasOwn(fields, name) ? make("code", {}, fields[name]) : "computed by mongod")),
      problem ? make("tr", {class: "reason warn"}, make("td", {colspan: 3}, problem.reason)) : null,
    ];
  };
  return make("div", {},
    make("h3", {}, table.name),
    forms.map(form => make("p", {class: "small quiet"}, `${form} `, make("code", {}, JSON.stringify(mapping[form])))),
    make("table", {class: "columns"},
      make("thead", {}, make("tr", {}, make("th", {}, "Column"), make("th", {}, "Type"), make("th", {}, "Field"))),
      make("tbody", {}, Object.entries(table.columns).map(column))));
}

// REJECTED ROWS AND VALUES

const effects = {"row not sent": "bad", "value sent as null": "warn", "replaces another row": "bad", "delete not sent": "bad"};
const effect = name => name === null || name === undefined ? unknown : badge(effects[name] || "quiet", name);

function rejected(one, {counts, newest}, now) {
  const reasons = counts.filter(other => other.table === one.table).map(other => other.reason);
  const cases = newest.filter(other => other.table === one.table
    && (other.reason === one.reason || (one.effect === null && !reasons.includes(other.reason))));
  return {
    key: `${one.table} ${one.reason}`,
    cells: [
      [one.table, one.column ? small(`column ${one.column}`) : null], one.reason, effect(one.effect), count(one.count),
      [make("code", {}, plain(one.id)), small(ago(now - one.when))],
    ],
    body: cases.length === 0 ? make("p", {class: "small quiet"}, "Newer cases of other reasons have replaced the list of this one.") : [
      make("table", {class: "columns"},
        make("thead", {}, make("tr", {}, ["_id", "Column", "Reason", "When"].map(label => make("th", {}, label)))),
        make("tbody", {}, cases.map(other => make("tr", {},
          make("td", {class: "free"}, make("code", {}, plain(other.id))), make("td", {class: "free"}, known(other.column, String)),
          make("td", {}, other.reason), make("td", {class: "tight"}, ago(now - other.when))))))],
  };
}

// THE PAGE

function facts(status) {
  const now = status.now, end = status.certificate_end;
  const certificate = known(end, seconds => make("span", {class: end - now < 30 * 86400 ? (end < now ? "bad" : "warn") : ""},
    end < now ? `TLS certificate expired on ${day(seconds)}` : `TLS certificate until ${day(seconds)} (${duration(seconds - now)})`));
  const scopes = {collection: "now a change stream for each collection", database: "now one change stream for the database"};
  const text = [
    `database ${status.database}`, status.mongodb && `MongoDB ${status.mongodb}`,
    status.feed_scope && make("span", {title: scopes[status.feed_scope]}, `feed scope: ${status.feed_scope}`),
    certificate === unknown ? "" : certificate,
    `running for ${whole(now - status.started)}`, `version ${status.version}`,
    status.reconnects ? several(status.reconnects, "reconnect") : "",
  ];
  return text.filter(Boolean).flatMap((one, number) => number ? [" · ", one] : [one]);
}
function warnings(status) {
  const now = status.now, end = status.certificate_end, reload = status.last_reload;
  return [
    status.store_trouble ? `The watermark store cannot be written: ${status.store_trouble}` : "",
    ...status.problems.map(one => `${one.name} ${one.reason}`),
    end !== null && end - now < 30 * 86400
      ? `The TLS certificate of this server ${end < now ? "expired" : "expires"} at ${new Date(end * 1000).toISOString()}` : "",
    reload && reload.faults.length ? "The last reload was refused: see below." : "",
  ].filter(Boolean);
}
// The state in the browser's tab: its words, and the colour of its icon.
function tab(text, level) {
  const colour = {ok: "#17a05a", warn: "#e09a1a", bad: "#d2402f"}[level];
  const icon = `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 16 16"><circle cx="8" cy="8" r="6" fill="${colour}"/></svg>`;
  const address = `data:image/svg+xml,${encodeURIComponent(icon)}`;
  document.title = `zmsd: ${text}`;
  if (id("icon").href !== address) id("icon").href = address;
}
function show(status) {
  const now = status.now, reload = status.last_reload, history = status.history, found = warnings(status);
  const level = !status.ready ? "bad" : found.length ? "warn" : "ok";
  tab(!status.ready ? "not ready" : found.length ? `serving, ${several(found.length, "problem")}` : "serving", level);
  id("state").className = `state ${level}`;
  fill("state", status.state);
  fill("facts", facts(status));
  id("problems").hidden = found.length === 0;
  fill("problems", found.map(one => make("li", {}, one)));
  every = history.every;
  // The current values are over ten seconds: single samples vary too much.
  const lately = values => values.slice(-5);
  const rate = lately(history.rate), lag = lately(history.lag);
  fill("rate", digits(rate.reduce((sum, value) => sum + value, 0) / (rate.length || 1)), " ", small("per second"));
  fill("lag", duration(Math.max(...lag, 0)), " ", small("from commit until ready to send"));
  graph("rates", "changes per second", history.rate, value => `${digits(value)}/s`);
  graph("lags", "lag", history.lag, duration);
  fill("headroom", known(status.oplog_headroom, duration));
  fill("headroom-note", status.oplog_note);
  fill("age", status.behind_seconds === 0 ? "up to date" : known(status.position_age, ago));
  fill("watermark", status.watermark === null ? "" : `watermark ${status.watermark}`);
  fill("memory", bytes(status.memory_bytes));
  fill("memory-note", `${bytes(status.log_bytes)} of it the change log`);
  list("sessions", [["Client", "title"], [`Lag in ${minutes()}`, "full"], ["State", ""], ["Acknowledged", "number"], ["Backlog", "number"], ["Sent", "number"]],
    status.sessions.map(one => session(one, now)), "No client is connected.");
  list("collections", [["Collection", "title"], ["Changes", "number"], ["Lag", "number"], ["Total", "number"], ["Queue", "number"], ["Images", "number"]],
    status.collections.map(one => collection(one, status.problems)), "None.");
  list("rejected", [["Table", "title"], ["Reason", "full"], ["Effect", ""], ["Count", "number"], ["Newest _id", "full"]],
    status.rejected.counts.map(one => rejected(one, status.rejected, now)), "None.");
  const refused = reload !== null && reload.faults.length > 0;
  id("reload").className = refused ? "card empty bad" : "card empty";
  if (reload === null) fill("reload", "None since the start.");
  else fill("reload",
    make("p", {}, `${ago(now - reload.when)}: ${refused ? "refused, the old configuration stays in use" : "applied"}`),
    refused ? make("ul", {class: "small"}, reload.faults.map(error => make("li", {}, error))) : null,
    reload.restart.length ? make("p", {class: "small"}, `Changed settings that need a restart: ${reload.restart.join(", ")}`) : null);
  document.querySelector("main").hidden = false;
}

// null: no answer.
async function get(path) {
  try {
    const answer = await fetch(path + location.search, {cache: "no-store", signal: AbortSignal.timeout(10000)});
    return {code: answer.status, data: answer.ok ? await answer.json() : null};
  } catch (error) {
    if (error instanceof TypeError || error.name === "TimeoutError") return null;
    throw error;
  }
}
// Show the state, and return why that cannot be done.
async function refresh() {
  const status = await get("/status.json");
  if (status === null) return "zmsd does not answer.";
  if (status.code === 401) return "zmsd does not accept the token in this page's address.";
  if (status.data === null) return `zmsd answers ${status.code}.`;
  if (specs.publication !== status.data.publication) {
    const tables = await get("/metadata/tables");
    if (tables !== null && tables.data !== null) specs = {publication: status.data.publication, tables: tables.data.tables};
  }
  show(status.data);
  answered = new Date();
  return "";
}
let answered = null;
async function ask() {
  let trouble = "This page failed: see the browser's console.";
  try {
    trouble = await refresh();
  } finally {
    if (trouble) tab("no answer", "bad");
    id("trouble").hidden = !trouble;
    fill("trouble", trouble && trouble + (answered ? ` The data below is from ${answered.toLocaleTimeString()}.` : ""));
    document.body.classList.toggle("stale", Boolean(trouble));
    setTimeout(next, every * 1000);
  }
}
function next() {
  if (document.hidden) document.addEventListener("visibilitychange", next, {once: true});
  else ask();
}
ask();
