// The jobs that this tab has submitted, kept in its sessionStorage: ids and how they stand, no data.

import { ask } from "./access.js";
import { $, el } from "./dom.js";
import { time } from "./numbers.js";

export const ENDED = new Set(["succeeded", "failed", "cancelled", "expired"]);

const KEPT = "mutirao.jobs";
const MOST = 12;
const WAIT_S = 20;
const AWAY_MS = 5_000;

let waiting = null;

/** Note how a job stands, as the gateway tells it. */
export function note({ id, model, status, queued_at: queued, finished_at: finished }) {
  const job = { id, model, status, seconds: queued && finished ? finished - queued : null };
  const jobs = all();
  const at = jobs.findIndex((one) => one.id === id);
  if (at < 0) jobs.unshift(job);
  else jobs[at] = job;
  sessionStorage.setItem(KEPT, JSON.stringify(jobs.slice(0, MOST)));
}

/** Show them; `open(job)` is called for the one that is chosen. */
export function list(open) {
  const jobs = all();
  $("recent").hidden = jobs.length === 0;
  const focused = document.activeElement?.dataset?.job;
  $("recent-list").replaceChildren(...jobs.map((job) => el("li", {}, button(job, open))));
  if (focused) $("recent-list").querySelector(`[data-job="${CSS.escape(focused)}"]`)?.focus();
}

/** Wait for those that have not ended, in one call for all of them, and show how they did. */
export async function settle(open) {
  waiting?.abort();
  const control = (waiting = new AbortController());
  for (let ids = running(); ids.length && !control.signal.aborted; ids = running()) {
    try {
      const { jobs, missing } = await ended(ids, control.signal);
      jobs.forEach(note);
      all().filter(({ id }) => missing.includes(id)).forEach((job) => note({ ...job, status: "gone" }));
      if (jobs.length + missing.length) list(open);
    } catch {
      await new Promise((go) => setTimeout(go, AWAY_MS));
    }
  }
}

async function ended(ids, signal) {
  const body = JSON.stringify({ ids, wait: WAIT_S });
  const headers = { "Content-Type": "application/json" };
  const { jobs, missing = [] } = await (await ask("v1/jobs:wait", { method: "POST", headers, body, signal })).json();
  return { jobs, missing };
}

function button({ id, model, status, seconds }, open) {
  const parts = [
    el("span", { class: "name" }, model, el("span", { class: "about" }, id.slice(-12))),
    el("span", { class: "about" }, seconds == null ? "" : time(seconds)),
    el("span", { class: "state", "data-state": status }, status),
  ];
  return el("button", { type: "button", "data-job": id, on: { click: () => open({ id, model }) } }, ...parts);
}

const running = () => all().filter(({ status }) => !ENDED.has(status) && status !== "gone").map(({ id }) => id);

function all() {
  try {
    return JSON.parse(sessionStorage.getItem(KEPT)) ?? [];
  } catch {
    return [];
  }
}
