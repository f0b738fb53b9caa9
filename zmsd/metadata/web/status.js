"use strict";
// Data is inserted as text only: a string that append() gets never becomes markup.
const id = name => document.getElementById(name);
function make(tag, attributes, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) node.setAttribute(name, value);
  node.append(...children.filter(child => child !== null).map(child => child instanceof Node ? child : String(child)));
  return node;
}
const fill = (name, ...children) => id(name).replaceChildren(...children.filter(child => child !== null && child !== ""));

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
  return `${days} d ${hours % 24} h`;
}
const whole = seconds => seconds < 10 ? `${Math.max(Math.round(seconds), 0)} s` : duration(Math.round(seconds));
const ago = seconds => seconds < 1.5 ? "just now" : `${whole(seconds)} ago`;
const unknown = "–";
const known = (value, format) => value === null || value === undefined ? unknown : format(value);

function table(columns, rows) {
  const head = columns.map(([label, kind]) => make("th", {class: kind}, label));
  const body = rows.flatMap(cells => {
    const row = make("tr", {}, ...columns.map(([label, kind], number) => {
      const cell = [cells[number]].flat();
      return make("td", {class: kind, "data-label": label}, make("div", {}, ...cell));
    }));
    return cells.more ? [row, make("tr", {class: "more"}, make("td", {colspan: columns.length}, cells.more))] : [row];
  });
  return make("table", {}, make("thead", {}, make("tr", {}, ...head)), make("tbody", {}, ...body));
}
const small = text => make("small", {}, text);
const empty = text => make("p", {class: "empty"}, text);

function graph(name, label, values, points, format) {
  const [width, height] = [300, 80];
  const most = Math.max(...values, 0);
  let top = 10 ** Math.ceil(Math.log10(most || 1));
  for (const part of [5, 2]) if (most > 0 && top / part >= most) { top /= part; break; }
  const place = (value, number) =>
    `${(width - (values.length - 1 - number) * width / (points - 1)).toFixed(1)},${(height - value / top * height).toFixed(1)}`;
  const curve = values.map(place).join(" L");
  const first = (width - (values.length - 1) * width / (points - 1)).toFixed(1);
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const add = (tag, attributes) => {
    const node = document.createElementNS(svg.namespaceURI, tag);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    svg.append(node);
  };
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("role", "img");
  svg.setAttribute("aria-label", `${label}, at most ${format(most)}`);
  for (const y of [0, height / 2, height]) add("line", {x1: 0, x2: width, y1: y, y2: y});
  if (values.length) {
    add("path", {class: "area", d: `M${first},${height} L${curve} L${width},${height} Z`});
    add("path", {class: "curve", d: `M${curve}`});
  }
  fill(name, make("p", {class: "scale"}, format(top)), svg,
    make("figcaption", {}, make("span", {}, `${Math.round(points * every / 60)} minutes ago`), make("span", {}, "now")));
}
const points = 150;
let every = 2;

function session(one, now) {
  const cells = [
    [`${one.app}/${one.shard}`, small(one.address), small(one.replica ? `replica ${one.replica}` : "initial sync")],
    [one.state, small(`for ${whole(now - one.since)}`)],
    [one.acked_age === null ? unknown : ago(one.acked_age)],
    one.backlog_seconds === null ? unknown : one.backlog_seconds === 0 ? "nothing"
      : [duration(one.backlog_seconds), one.backlog_transactions === null ? small("reading the oplog")
        : small(several(one.backlog_transactions, "transaction"))],
    [several(one.rows, "row"), small(bytes(one.bytes))],
  ];
  if (one.copy !== null) {
    const copy = one.copy, part = copy.estimated ? Math.min(copy.documents / copy.estimated, 1) : 0;
    const percent = `${Math.floor(part * 100)} %`;
    const done = make("i", {});
    done.style.width = `${part * 100}%`;
    const bar = make("div", {class: "bar", role: "progressbar", "aria-valuenow": Math.floor(part * 100), "aria-valuemin": 0,
      "aria-valuemax": 100, "aria-label": `initial sync or schema change of ${one.app}/${one.shard}`}, done);
    const left = copy.eta_seconds === null ? "" : `, about ${whole(copy.eta_seconds)} left`;
    cells.more = make("div", {}, bar, make("small", {},
      `${percent} sent: ${count(copy.documents)} of about ${several(copy.estimated, "document")}, now in ${copy.collection || unknown}, `
      + `${count(copy.rows_per_second)} rows/s${left}`));
  }
  return cells;
}

function show(status) {
  const now = status.now, reload = status.last_reload, history = status.history;
  const level = !status.ready ? "bad" : status.store_trouble || status.problems.length || (reload && reload.faults.length) ? "warn" : "ok";
  document.title = status.ready ? "zmsd: ready" : "zmsd: not ready";
  id("state").className = `state ${level}`;
  fill("state", status.state);
  fill("facts", [`database ${status.database}`, status.mongodb && `MongoDB ${status.mongodb}`,
    `running for ${whole(now - status.started)}`, `version ${status.version}`,
    status.reconnects ? several(status.reconnects, "reconnect") : ""].filter(Boolean).join(" · "));
  id("store").hidden = !status.store_trouble;
  fill("store", status.store_trouble && `The watermark store cannot be written: ${status.store_trouble}`);
  const problems = status.problems.map(one => `${one.name} ${one.reason}`), end = status.certificate_end;
  if (end !== null && end - now < 30 * 86400)
    problems.push(`The TLS certificate of this server ${end < now ? "expired" : "expires"} at ${new Date(end * 1000).toISOString()}`);
  id("problems").hidden = problems.length === 0;
  fill("problems", ...problems.map(one => make("li", {}, one)));
  every = history.every;
  // The current values are over ten seconds: single samples vary too much.
  const lately = values => values.slice(-5);
  const rate = lately(history.rate), lag = lately(history.lag);
  fill("rate", digits(rate.reduce((sum, value) => sum + value, 0) / (rate.length || 1)), " ", make("small", {}, "per second"));
  fill("lag", duration(Math.max(...lag, 0)), " ", make("small", {}, "from commit until ready to send"));
  graph("rates", "changes per second", history.rate, points, value => `${digits(value)}/s`);
  graph("lags", "lag", history.lag, points, duration);
  fill("headroom", known(status.oplog_headroom, duration));
  fill("headroom-note", status.oplog_note);
  fill("age", status.behind_seconds === 0 ? "up to date" : known(status.position_age, ago));
  fill("watermark", status.watermark === null ? "" : `watermark ${status.watermark}`);
  fill("memory", bytes(status.memory_bytes));
  fill("memory-note", `${bytes(status.log_bytes)} of it the change log`);
  fill("sessions", status.sessions.length === 0 ? empty("No client is connected.") : table(
    [["Client", ""], ["State", ""], ["Acknowledged", "number"], ["Backlog", "number"], ["Sent", "number"]],
    status.sessions.map(one => session(one, now))));
  fill("collections", table(
    [["Collection", ""], ["Changes", "number"], ["Lag", "number"], ["Total", "number"], ["Queue", "number"], ["Images", "number"]],
    status.collections.map(one => [
      [one.name, one.tables.join() === one.name ? null : small(one.tables.join(", "))], `${digits(one.rate)}/s`,
      known(one.lag, duration), count(one.events), known(one.queue, ([held, limit]) => `${held} of ${limit}`),
      one.images ? "on" : "off",
    ])));
  const rejected = status.rejected;
  fill("rejected", rejected.counts.length === 0 ? empty("None.") : table(
    [["Table", ""], ["Reason", "free"], ["Count", "number"], ["Newest", "free"]],
    rejected.counts.map(one => {
      const newest = rejected.newest.filter(other => other.table === one.table && other.reason === one.reason);
      const names = [...new Set(newest.map(other => other.id))].slice(0, 3);
      return [one.table, one.reason, count(one.count),
        newest.length ? [names.join(", "), small(ago(now - newest[0].when))] : unknown];
    })));
  if (reload === null) fill("reload", "None since the start.");
  else fill("reload",
    make("p", {class: reload.faults.length ? "bad" : ""},
      `${ago(now - reload.when)}: ${reload.faults.length ? "refused, the old configuration stays in use" : "applied"}`),
    reload.faults.length ? make("ul", {class: "small"}, ...reload.faults.map(error => make("li", {}, error))) : null,
    reload.restart.length ? make("p", {class: "small"}, `Changed settings that need a restart: ${reload.restart.join(", ")}`) : null);
  document.querySelector("main").hidden = false;
}

let answered = null;
async function ask() {
  let trouble = "";
  try {
    const answer = await fetch(location.pathname + ".json" + location.search, {cache: "no-store", signal: AbortSignal.timeout(10000)});
    if (answer.status === 401) trouble = "zmsd does not accept the token in this page's address.";
    else if (!answer.ok) trouble = `zmsd answers ${answer.status}.`;
    else {
      show(await answer.json());
      answered = new Date();
    }
  } catch (error) {
    trouble = "zmsd does not answer.";
    if (!(error instanceof TypeError) && error.name !== "TimeoutError") throw error;
  } finally {
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
