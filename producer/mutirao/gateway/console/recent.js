// The jobs that this tab has submitted, kept in its sessionStorage: ids and how they stand, no data.

import { $, el } from "./dom.js";
import { time } from "./numbers.js";

const KEPT = "mutirao.jobs";
const MOST = 12;

/** Note a job, or how it stands now: {id, model, status, seconds}. */
export function note(job) {
  const jobs = all();
  const at = jobs.findIndex(({ id }) => id === job.id);
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

function button({ id, model, status, seconds }, open) {
  const parts = [
    el("span", { class: "name" }, model, el("span", { class: "about" }, id.slice(-12))),
    el("span", { class: "about" }, seconds == null ? "" : time(seconds)),
    el("span", { class: "state", "data-state": status }, status),
  ];
  return el("button", { type: "button", "data-job": id, on: { click: () => open({ id, model }) } }, ...parts);
}

function all() {
  try {
    return JSON.parse(sessionStorage.getItem(KEPT)) ?? [];
  } catch {
    return [];
  }
}
