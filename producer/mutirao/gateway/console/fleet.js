// The figures at the top and the tables of models and workers, drawn from each snapshot.

import { $, announce, el, setText } from "./dom.js";
import { bytes, count, plural, rate, time } from "./numbers.js";
import { History, Spark } from "./spark.js";

const history = new History();
const sparks = { depth: new Spark($("depth-line"), ["depth"]), rate: new Spark($("rate-line"), ["rate"]) };
const modelRows = new Map();
const workerRows = new Map();
let before = null;

/** Show a snapshot; `choose(name)` is called when the user wants to try a model. */
export function show(fleet, choose) {
  remember(fleet);
  showFigures(fleet);
  models(fleet.models, choose);
  workers(fleet.workers, fleet.at);
  announceChanges(before, fleet);
  before = fleet;
}

/** Mark what is shown as old, or as current again. */
export function stale(old) {
  for (const id of ["glance", "fleet"]) $(id).classList.toggle("stale", old);
}

function remember({ models }) {
  const names = new Set(["/rate", "/depth"]);
  for (const model of models) {
    names.add(`rate ${model.name}`).add(`depth ${model.name}`);
    history.add(`rate ${model.name}`, model.rate_per_s);
    history.add(`depth ${model.name}`, model.requests ?? 0);
  }
  history.add("/rate", sum(models, "rate_per_s"));
  history.add("/depth", sum(models, "requests"));
  history.keep(names);
}

function showFigures({ models, workers }) {
  const ready = models.filter((model) => model.ready).length;
  document.title = ready === models.length ? "mutirão" : `${models.length - ready} not ready · mutirão`;
  $("ready").replaceChildren(String(ready), el("span", { class: "of" }, ` of ${models.length}`));
  setText($("ready-more"), models.length === 0 ? "none announced" : ready === models.length ? "all of them" : missing(models));

  setText($("hands"), workers ? count(workers.length) : "–");
  setText($("hands-more"), workers ? workerSummary(workers) : "this key does not show them");

  const waiting = sum(models, "requests");
  const oldest = most(models.map((model) => model.oldest_s));
  const hidden = models.length > 0 && models.every((model) => model.requests == null);
  setText($("depth"), hidden ? "–" : count(waiting));
  setText($("depth-more"), hidden ? "not visible with this broker" : waiting ? depth(models, oldest) : "nothing waits");
  sparks.depth.draw([history.of("/depth")], `Requests waiting over the last minutes, now ${count(waiting)}`);

  const flow = sum(models, "rate_per_s");
  setText($("rate"), rate(flow));
  setText($("rate-more"), "requests a second");
  sparks.rate.draw([history.of("/rate")], `Requests a second over the last minutes, now ${rate(flow)}`);
}

function missing(models) {
  const names = models.filter((model) => !model.ready).map((model) => model.name);
  return `not ready: ${names.slice(0, 3).join(", ")}${names.length > 3 ? ` and ${names.length - 3} more` : ""}`;
}

function workerSummary(workers) {
  if (!workers.length) return "none alive";
  const parts = [plural(sum(workers, "processes"), "process").replace("processs", "processes")];
  const cores = new Map(); // those of one host are shared by its workers
  for (const { name, cores: own } of workers) {
    const host = name.slice(name.indexOf("@") + 1);
    cores.set(host, Math.max(cores.get(host) ?? 0, own));
  }
  const all = [...cores.values()].reduce((total, own) => total + own, 0);
  if (all) parts.push(plural(all, "core"));
  const memory = sum(workers, "memory_bytes");
  if (memory) parts.push(bytes(memory));
  return parts.join(" · ");
}

function depth(models, oldest) {
  const parts = [plural(sum(models, "rows"), "row")];
  if (oldest != null) parts.push(`oldest ${time(oldest)}`);
  const behind = models.filter((model) => model.requests);
  if (behind.every((model) => model.drain_s != null)) parts.push(`drains in ${time(most(behind.map((model) => model.drain_s)))}`);
  return parts.join(" · ");
}

function models(list, choose) {
  toggle("models", list.length > 0);
  keyed($("models-rows"), modelRows, list, (model) => modelRow(model.name, choose), fillModel);
}

function modelRow(name, choose) {
  const cell = (label, more = "number") => el("td", { role: "cell", class: more, "data-name": label });
  const row = {
    about: el("span", { class: "about" }),
    state: el("span", { class: "state" }),
    reason: el("span", { class: "reason" }),
    workers: cell("Workers"),
    requests: el("span"),
    rows: el("span", { class: "rows" }),
    oldest: cell("Oldest"),
    rate: cell("Requests/s"),
    batch: cell("Batch"),
    drain: cell("Drains in"),
    trend: el("td", { role: "cell", class: "trend" }),
  };
  row.spark = new Spark(row.trend, ["rate", "depth"]);
  row.button = el("button", { type: "button", "aria-label": `Try ${name}`, on: { click: () => choose(name) } }, "Try");
  const head = el("th", { role: "rowheader", scope: "row" }, el("span", { class: "title" }, el("span", { class: "name" }, name), row.state), row.about, row.reason);
  const depth = cell("Waiting");
  depth.append(row.requests, row.rows);
  const cells = [row.workers, depth, row.oldest, row.rate, row.batch, row.drain, row.trend];
  row.element = el("tr", { role: "row", "data-model": name }, head, ...cells, el("td", { role: "cell", class: "act" }, row.button));
  return row;
}

function fillModel(row, model) {
  setText(row.about, [model.version && `version ${model.version}`, model.runtime].filter(Boolean).join(" · "));
  row.state.dataset.state = model.ready ? "ready" : "down";
  setText(row.state, model.ready ? "ready" : "not ready");
  setText(row.reason, model.ready ? "" : model.reason);
  figure(row.workers, count(model.workers), !model.workers);
  figure(row.requests, model.requests == null ? "–" : count(model.requests), !model.requests);
  setText(row.rows, model.requests === model.rows ? "" : plural(model.rows, "row"));
  figure(row.oldest, model.requests ? time(model.oldest_s) : "–", !model.requests);
  row.oldest.classList.toggle("behind", model.oldest_s > 10);
  figure(row.rate, rate(model.rate_per_s), !model.rate_per_s);
  figure(row.batch, model.batch_rows ? rate(model.batch_rows) : "–", !model.batch_rows);
  figure(row.drain, model.requests ? time(model.drain_s) : "–", !model.requests);
  const label = `Last minutes of ${model.name}: ${rate(model.rate_per_s)} requests a second, ${count(model.requests ?? 0)} waiting`;
  row.spark.draw([history.of(`rate ${model.name}`), history.of(`depth ${model.name}`)], label);
}

function workers(list, at) {
  $("workers").hidden = !list;
  if (!list) return;
  toggle("workers", list.length > 0);
  keyed($("workers-rows"), workerRows, list, (worker) => workerRow(worker.name), (row, worker) => fillWorker(row, worker, at));
}

function workerRow(name) {
  const cell = (label) => el("td", { role: "cell", class: "number", "data-name": label });
  const [own, host] = name.split(/@(.*)/s);
  const row = { cores: cell("Cores"), processes: cell("Processes"), memory: cell("Memory"), rate: cell("Requests/s"), up: cell("Up") };
  row.chips = el("div", { class: "chips" });
  row.failing = el("div");
  const head = el("th", { role: "rowheader", scope: "row" }, el("span", { class: "name" }, own), el("span", { class: "about" }, host ?? ""));
  const models = el("td", { role: "cell", class: "chips-cell", "data-name": "Models" }, row.chips, row.failing);
  row.element = el("tr", { role: "row", "data-worker": name }, head, row.cores, row.processes, row.memory, row.rate, row.up, models);
  return row;
}

function fillWorker(row, worker, at) {
  figure(row.cores, worker.cores || "–", !worker.cores);
  figure(row.processes, worker.processes);
  figure(row.memory, bytes(worker.memory_bytes));
  figure(row.rate, rate(worker.rate_per_s), !worker.rate_per_s);
  figure(row.up, worker.started_at ? time(Math.max(0, at - worker.started_at)) : "–");
  const failing = Object.entries(worker.failing).map(([name, reason]) => `${name}: ${reason}`);
  if (row.failing.dataset.shown !== failing.join("\n")) {
    row.failing.dataset.shown = failing.join("\n");
    row.failing.replaceChildren(...failing.map((text) => el("span", { class: "reason" }, text)));
  }
  const served = Object.entries(worker.models).map(([name, version]) => (version === "1" ? name : `${name} ${version}`));
  if (row.chips.dataset.served === served.join("\n")) return;
  row.chips.dataset.served = served.join("\n");
  row.chips.replaceChildren(...served.map((name) => el("span", { class: "chip" }, name)));
}

function figure(place, text, zero = false) {
  setText(place, text);
  place.classList.toggle("zero", zero);
}

function toggle(noun, some) {
  $(`${noun}-none`).hidden = some;
  $(`${noun}-table`).hidden = !some;
}

/** Keep one row an item, in order, made once: what has the focus stays. */
function keyed(body, rows, items, make, fill) {
  const names = new Set(items.map((item) => item.name));
  for (const [name, row] of rows) {
    if (names.has(name)) continue;
    row.element.remove();
    rows.delete(name);
  }
  items.forEach((item, at) => {
    if (!rows.has(item.name)) rows.set(item.name, make(item));
    const row = rows.get(item.name);
    if (body.children[at] !== row.element) body.insertBefore(row.element, body.children[at] ?? null);
    fill(row, item);
  });
}

function announceChanges(old, now) {
  if (!old) return;
  const changes = [];
  const was = new Map(old.models.map((model) => [model.name, model.ready]));
  for (const { name, ready } of now.models) {
    if (was.get(name) !== ready) changes.push(`model ${name} is ${ready ? "ready" : "not ready"}`);
  }
  const [gone, come] = [difference(old.workers, now.workers), difference(now.workers, old.workers)];
  changes.push(...gone.map((name) => `worker ${name} is gone`), ...come.map((name) => `worker ${name} is new`));
  if (changes.length) announce(changes.join("; "));
}

const difference = (some, others) => {
  const names = new Set((others ?? []).map((worker) => worker.name));
  return (some ?? []).map((worker) => worker.name).filter((name) => !names.has(name));
};
const sum = (items, field) => items.reduce((total, item) => total + (item[field] || 0), 0);
const most = (values) => values.reduce((largest, value) => (value != null && (largest == null || value > largest) ? value : largest), null);
