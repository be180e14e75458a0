// One job, live: its steps as they happen, its times, and its result.

import { request } from "./access.js";
import { $, announce, el, setText } from "./dom.js";
import { cell, plural, time } from "./numbers.js";
import { ENDED } from "./recent.js";
import { follow } from "./stream.js";

const ROWS_MAX = 200;
const QUEUED_MS = 1_500;

let current = null;

/** Show a job until another is shown; `changed(view)` is called with each new state. */
export function watch(id, model, changed) {
  current?.stream.stop();
  const shown = { id, model, changed, steps: new Map(), status: "" };
  current = shown;
  clear(shown);
  shown.stream = follow(`v1/jobs/${encodeURIComponent(id)}/events`, {
    onEvent: (event) => current === shown && onStep(shown, event),
    onState: (state, more) => (current === shown ? onLink(shown, state, more) : "stop"),
  });
}

/** Cancel the job that is shown, while it waits. */
export async function cancel() {
  const shown = current;
  $("job-cancel").disabled = true;
  try {
    await request(`v1/jobs/${encodeURIComponent(shown.id)}`, { method: "DELETE" });
  } catch (error) {
    if (current === shown) showError(error.message);
  } finally {
    $("job-cancel").disabled = false;
  }
}

function clear({ id, model }) {
  $("job").hidden = false;
  setText($("job-title"), `Job for ${model}`);
  setText($("job-id"), id);
  setText($("job-error"), "");
  $("job-spent").hidden = true;
  $("job-result").hidden = true;
  $("job-steps").replaceChildren();
  showState("queued");
}

function showState(state, { before, wait_s: wait } = {}) {
  $("job-state").dataset.state = state;
  setText($("job-state"), state);
  $("job-cancel").hidden = state !== "queued";
  const ahead = [before != null && `${plural(before, "request")} before it`, wait != null && `about ${time(wait)} to wait`];
  setText($("job-ahead"), state === "queued" ? ahead.filter(Boolean).join(" · ") : "");
}

function onStep(shown, { data }) {
  const step = JSON.parse(data);
  shown.steps.set(`${step.step} ${step.at}`, step);
  const steps = [...shown.steps.values()].sort((a, b) => a.at - b.at);
  $("job-steps").replaceChildren(...steps.map((one) => line(one, steps[0].at)));
  if (step.status !== shown.status) onStatus(shown, step.status);
}

function line({ step, at, says }, first) {
  const when = at === first ? new Date(at * 1000).toLocaleTimeString([], { hourCycle: "h23" }) : `+ ${time(at - first)}`;
  const moment = el("time", { datetime: new Date(at * 1000).toISOString() }, when);
  return el("li", { "data-step": step }, el("b", {}, step), moment, says ? el("span", { class: "says" }, says) : null);
}

function onLink(shown, state, { error } = {}) {
  if (state === "refused") {
    shown.changed({ id: shown.id, model: shown.model, status: "gone" });
    showState("gone");
    showError(error.message);
  }
  return state === "lost" && !error && ENDED.has(shown.status) ? "stop" : undefined;
}

function onStatus(shown, status) {
  shown.status = status;
  showState(status);
  if (ENDED.has(status)) announce(`job for ${shown.model}: ${status}`);
  loadRecord(shown);
}

/** Read the job's record: its place in the queue while it waits, its times and its result once it has ended. */
async function loadRecord(shown) {
  const status = shown.status;
  try {
    const view = await (await request(`v1/jobs/${encodeURIComponent(shown.id)}`)).json();
    if (current !== shown || shown.status !== status) return;
    showState(view.status, view);
    shown.changed(view);
    showTimes(view);
    if (view.status === "queued") setTimeout(() => current === shown && shown.status === "queued" && loadRecord(shown), QUEUED_MS);
    else if (view.status === "succeeded") await result(shown);
    else if (view.error && view.status !== "cancelled") showError(view.error.message);
  } catch (error) {
    if (current === shown) showError(error.message);
  }
}

/** How the time was spent: waiting, held by a worker, running. */
function showTimes({ queued_at: queued, reserved_at: reserved, started_at: started, finished_at: finished }) {
  $("job-spent").hidden = !(queued && started && finished);
  if ($("job-spent").hidden) return;
  const taken = reserved ?? started;
  const parts = [["queued", "waited", taken - queued], ["held", "held", started - taken], ["run", "ran", finished - started]];
  const whole = parts.reduce((total, [, , length]) => total + Math.max(0, length), 0) || 1;
  $("job-bar").replaceChildren(...parts.map(([kind, , length]) => barSegment(kind, Math.max(0, length) / whole)));
  $("job-times").replaceChildren(...parts.map(([kind, says, length]) => el("span", { class: kind }, `${says} ${time(Math.max(0, length))}`)));
}

function barSegment(kind, share) {
  const segment = el("i", { class: kind });
  segment.style.width = `${share * 100}%`;
  return segment;
}

async function result(shown) {
  const response = await request(`v1/jobs/${encodeURIComponent(shown.id)}/result?nan=null`, { headers: { Accept: "application/json" } });
  const { outputs } = await response.json();
  if (current !== shown) return;
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

function showError(text) {
  setText($("job-error"), text);
}
