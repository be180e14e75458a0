// One job, live: its steps as they happen, how its time was spent, and what came of it.

import { ask } from "./access.js";
import { $, announce, el, say } from "./dom.js";
import { cell, plural, time } from "./numbers.js";
import { ENDED } from "./recent.js";
import { follow } from "./stream.js";

const ROWS_MAX = 200;
const QUEUED_MS = 1_500;

let current = null;

/** Show a job from now on, until another is shown; `changed(view)` hears how it stands. */
export function watch(id, model, changed) {
  current?.stream.stop();
  const mine = { id, model, changed, steps: new Map(), status: "" };
  current = mine;
  clear(mine);
  mine.stream = follow(`v1/jobs/${encodeURIComponent(id)}/events`, {
    event: (event) => current === mine && take(mine, event),
    state: (state, more) => (current === mine ? linked(mine, state, more) : "stop"),
  });
}

/** Cancel the job that is shown, while it waits. */
export async function cancel() {
  const mine = current;
  $("job-cancel").disabled = true;
  try {
    await ask(`v1/jobs/${encodeURIComponent(mine.id)}`, { method: "DELETE" });
  } catch (error) {
    if (current === mine) fail(error.message);
  } finally {
    $("job-cancel").disabled = false;
  }
}

function clear({ id, model }) {
  $("job").hidden = false;
  say($("job-title"), `Job for ${model}`);
  say($("job-id"), id);
  say($("job-error"), "");
  $("job-spent").hidden = true;
  $("job-result").hidden = true;
  $("job-steps").replaceChildren();
  stateIs("queued");
}

function stateIs(state, { before, wait_s: wait } = {}) {
  $("job-state").dataset.state = state;
  say($("job-state"), state);
  $("job-cancel").hidden = state !== "queued";
  const ahead = [before != null && `${plural(before, "request")} before it`, wait != null && `about ${time(wait)} to wait`];
  say($("job-ahead"), state === "queued" ? ahead.filter(Boolean).join(" · ") : "");
}

function take(mine, { data }) {
  const step = JSON.parse(data);
  mine.steps.set(`${step.step} ${step.at}`, step);
  const steps = [...mine.steps.values()].sort((a, b) => a.at - b.at);
  $("job-steps").replaceChildren(...steps.map((one) => line(one, steps[0].at)));
  if (step.status !== mine.status) stand(mine, step.status);
}

function line({ step, at, says }, first) {
  const when = at === first ? new Date(at * 1000).toLocaleTimeString([], { hourCycle: "h23" }) : `+ ${time(at - first)}`;
  const moment = el("time", { datetime: new Date(at * 1000).toISOString() }, when);
  return el("li", { "data-step": step }, el("b", {}, step), moment, says ? el("span", { class: "says" }, says) : null);
}

function linked(mine, state, { error } = {}) {
  if (state === "refused") {
    mine.changed({ id: mine.id, model: mine.model, status: "gone" });
    stateIs("gone");
    fail(error.message);
  }
  return state === "lost" && !error && ENDED.has(mine.status) ? "stop" : undefined;
}

function stand(mine, status) {
  mine.status = status;
  stateIs(status);
  if (ENDED.has(status)) announce(`job for ${mine.model}: ${status}`);
  look(mine);
}

/** Read the job's record: its place in line while it waits, its times and its result once it has ended. */
async function look(mine) {
  const status = mine.status;
  try {
    const view = await (await ask(`v1/jobs/${encodeURIComponent(mine.id)}`)).json();
    if (current !== mine || mine.status !== status) return;
    stateIs(view.status, view);
    mine.changed(view);
    spent(view);
    if (view.status === "queued") setTimeout(() => current === mine && mine.status === "queued" && look(mine), QUEUED_MS);
    else if (view.status === "succeeded") await result(mine);
    else if (view.error && view.status !== "cancelled") fail(view.error.message);
  } catch (error) {
    if (current === mine) fail(error.message);
  }
}

/** How the time was spent: waiting, held by a worker, running. */
function spent({ queued_at: queued, reserved_at: reserved, started_at: started, finished_at: finished }) {
  $("job-spent").hidden = !(queued && started && finished);
  if ($("job-spent").hidden) return;
  const taken = reserved ?? started;
  const parts = [["queued", "waited", taken - queued], ["held", "held", started - taken], ["run", "ran", finished - started]];
  const whole = parts.reduce((total, [, , length]) => total + Math.max(0, length), 0) || 1;
  $("job-bar").replaceChildren(...parts.map(([kind, , length]) => piece(kind, Math.max(0, length) / whole)));
  $("job-times").replaceChildren(...parts.map(([kind, says, length]) => el("span", { class: kind }, `${says} ${time(Math.max(0, length))}`)));
}

function piece(kind, share) {
  const made = el("i", { class: kind });
  made.style.width = `${share * 100}%`;
  return made;
}

async function result(mine) {
  const response = await ask(`v1/jobs/${encodeURIComponent(mine.id)}/result?nan=null`, { headers: { Accept: "application/json" } });
  const { outputs } = await response.json();
  if (current !== mine) return;
  $("job-result").replaceChildren(table(outputs), ...more(outputs));
  $("job-result").hidden = false;
}

/** One line a row; an output of several values a row has a column for each. */
function table(outputs) {
  const columns = outputs.flatMap((output) => columnsOf(output));
  const rows = Math.min(ROWS_MAX, Math.max(0, ...outputs.map(({ shape }) => shape[0])));
  const head = el("tr", {}, el("th", { scope: "col", class: "number" }, "#"), ...columns.map(({ name }) => el("th", { scope: "col", class: "number" }, name)));
  const line = (at) => el("tr", {}, el("th", { scope: "row", class: "number about" }, String(at + 1)), ...columns.map(({ of }) => el("td", { class: "number" }, cell(of(at)))));
  return el("table", {}, el("thead", {}, head), el("tbody", {}, ...Array.from({ length: rows }, (_, at) => line(at))));
}

function columnsOf({ name, shape, data }) {
  const flat = data.flat(Infinity);
  const width = shape.slice(1).reduce((product, size) => product * size, 1);
  if (shape.length < 2) return [{ name, of: (row) => flat[row] }];
  return Array.from({ length: width }, (_, at) => ({ name: `${name}[${at}]`, of: (row) => flat[row * width + at] }));
}

function more(outputs) {
  const rows = Math.max(0, ...outputs.map(({ shape }) => shape[0]));
  return rows > ROWS_MAX ? [el("p", { class: "about" }, `and ${plural(rows - ROWS_MAX, "row")} more`)] : [];
}

function fail(text) {
  say($("job-error"), text);
}
