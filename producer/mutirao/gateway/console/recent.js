// The jobs that this tab has submitted, kept in its sessionStorage: ids and states, no data.

import { request } from "./access.js";
import { $, el } from "./dom.js";
import { time } from "./numbers.js";

export const ENDED = new Set(["succeeded", "failed", "cancelled", "expired"]);

const STORAGE_KEY = "mutirao.jobs";
const JOBS_MAX = 12;
const WAIT_S = 20;
const RETRY_MS = 5_000;

let wait = null;

/** Store a job's state as the gateway returned it. */
export function remember({ id, model, status, queued_at: queued, finished_at: finished }) {
  const job = { id, model, status, seconds: queued && finished ? finished - queued : null };
  const jobs = stored();
  const at = jobs.findIndex((one) => one.id === id);
  if (at < 0) jobs.unshift(job);
  else jobs[at] = job;
  sessionStorage.setItem(STORAGE_KEY, JSON.stringify(jobs.slice(0, JOBS_MAX)));
}

/** Show the jobs; `open(job)` is called with the one that is clicked. */
export function show(open) {
  const jobs = stored();
  $("recent").hidden = jobs.length === 0;
  const focused = document.activeElement?.dataset?.job;
  $("recent-list").replaceChildren(...jobs.map((job) => el("li", {}, button(job, open))));
  if (focused) $("recent-list").querySelector(`[data-job="${CSS.escape(focused)}"]`)?.focus();
}

/** Wait for the jobs that have not ended, in one request for all of them, and show their ends. */
export async function waitForEnds(open) {
  wait?.abort();
  const control = (wait = new AbortController());
  for (let ids = running(); ids.length && !control.signal.aborted; ids = running()) {
    try {
      const { jobs, missing } = await fetchEnded(ids, control.signal);
      jobs.forEach(remember);
      stored().filter(({ id }) => missing.includes(id)).forEach((job) => remember({ ...job, status: "gone" }));
      if (jobs.length + missing.length) show(open);
    } catch {
      await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
    }
  }
}

async function fetchEnded(ids, signal) {
  const body = JSON.stringify({ ids, wait: WAIT_S });
  const headers = { "Content-Type": "application/json" };
  const { jobs, missing = [] } = await (await request("v1/jobs:wait", { method: "POST", headers, body, signal })).json();
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

const running = () => stored().filter(({ status }) => !ENDED.has(status) && status !== "gone").map(({ id }) => id);

function stored() {
  try {
    return JSON.parse(sessionStorage.getItem(STORAGE_KEY)) ?? [];
  } catch {
    return [];
  }
}
