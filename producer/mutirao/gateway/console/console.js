// The page: shows the fleet live, and sends requests to a model.

import { request, forget, hasKey } from "./access.js";
import { $, el, setText } from "./dom.js";
import { show, stale } from "./fleet.js";
import * as form from "./form.js";
import * as job from "./job.js";
import { time } from "./numbers.js";
import * as recent from "./recent.js";
import { follow } from "./stream.js";

const STALE_MS = 5_000;
const HIDDEN_MS = 60_000;

let stream = null;
let updatedAt = 0;
let linkState = "connecting";
let retryAt = 0;
let locked = false;

// The fleet, live

function start() {
  stream ??= follow("v1/fleet/events", {
    onEvent({ name, data }) {
      if (name !== "fleet") return;
      updatedAt = Date.now();
      const fleet = JSON.parse(data);
      show(fleet, choose);
      offerModels(fleet.models);
      tick();
    },
    onState(state, { error, retryMs } = {}) {
      linkState = state;
      retryAt = Date.now() + (retryMs ?? 0);
      $("link").title = error?.message ?? "";
      locked = error?.status === 401;
      $("key-forget").hidden = !hasKey();
      tick();
    },
  });
}

function stop() {
  stream?.stop();
  stream = null;
}

/** Show how current the page is. */
function tick() {
  const age = Date.now() - updatedAt;
  const old = updatedAt > 0 && age > STALE_MS;
  stale(old || linkState === "lost" || linkState === "refused");
  const since = updatedAt ? `, figures of ${time(Math.max(1, Math.round(age / 1000)))} ago` : "";
  const wait = Math.ceil((retryAt - Date.now()) / 1000);
  const texts = {
    connecting: updatedAt ? `reconnecting${since}` : "connecting",
    live: old ? `no update for ${time(Math.round(age / 1000))}` : "live",
    lost: `reconnecting${wait > 0 ? ` in ${wait} s` : ""}${since}`,
    refused: locked ? "this needs an API key" : `refused: ${$("link").title}`,
  };
  $("link").dataset.state = linkState === "live" && old ? "lost" : linkState === "connecting" && updatedAt ? "lost" : linkState;
  setText($("link-says"), texts[linkState]);
  setText($("link-again"), locked ? "Enter key" : "Now");
  $("link-again").hidden = !(linkState === "lost" || linkState === "refused");
}

function reconnect() {
  if (linkState !== "refused") return stream?.retry();
  stop();
  start();
}

// Trying a model

let described = "";
let offered = null;
let userChose = false;

function offerModels(models) {
  const names = models.map((model) => model.name);
  const ready = models.filter((model) => model.ready).map((model) => model.name);
  if (offered !== names.join("\n")) fillModels(names);
  // Until the user has chosen: a model that is ready, if there is one.
  if (!userChose && ready.length && !ready.includes(described)) describe(ready[0]);
  else if (names.length && !names.includes(described)) describe(names[0]);
}

function fillModels(names) {
  offered = names.join("\n");
  const select = $("try-model");
  const chosen = select.value;
  select.replaceChildren(...names.map((name) => el("option", {}, name)));
  $("try-none").hidden = names.length > 0;
  $("try-form").hidden = $("try-curl").hidden = names.length === 0;
  if (names.includes(chosen)) select.value = chosen;
}

async function describe(name) {
  $("try-model").value = name;
  described = name;
  setText($("try-error"), "");
  try {
    const model = await (await request(`v2/models/${encodeURIComponent(name)}`)).json();
    if (described !== name) return;
    form.build(model);
    curl();
  } catch (error) {
    if (described === name) setText($("try-error"), error.message);
  }
}

async function choose(name) {
  userChose = true;
  await describe(name);
  $("try").scrollIntoView({ block: "nearest", behavior: "instant" });
  form.focus();
}

async function submit(event) {
  event.preventDefault();
  const model = $("try-model").value;
  const body = form.body();
  if (body === null || !model) return;
  $("try-submit").disabled = true;
  try {
    const response = await request(target(model), { method: "POST", headers: { "Content-Type": "application/json" }, body });
    open((await response.json()).id, model);
  } catch (error) {
    setText($("try-error"), error.afterS ? `${error.message} (try again in ${time(error.afterS)})` : error.message);
  } finally {
    $("try-submit").disabled = false;
  }
}

function target(model) {
  const query = new URLSearchParams();
  if ($("try-priority").value !== "normal") query.set("priority", $("try-priority").value);
  if ($("try-expires").value) query.set("expires_s", $("try-expires").value);
  return `v1/models/${encodeURIComponent(model)}/jobs${query.size ? `?${query}` : ""}`;
}

function open(id, model) {
  job.watch(id, model, (view) => {
    recent.remember(view);
    recent.show(reopen);
  });
  recent.remember({ id, model, status: "queued" });
  recent.show(reopen);
  recent.waitForEnds(reopen);
}

function reopen({ id, model }) {
  open(id, model);
  $("job").scrollIntoView({ block: "nearest" });
  $("job").focus();
}

function curl() {
  const quoted = (text) => `'${text.replaceAll("'", `'\\''`)}'`;
  const address = new URL(target($("try-model").value), document.baseURI).href;
  const lines = [`curl ${quoted(address)}`, `-H 'Content-Type: application/json'`];
  if (hasKey()) lines.push(`-H "Authorization: Bearer $MUTIRAO_API_KEY"`);
  const { text, refused } = form.sample();
  lines.push(`-d ${quoted(text ?? "")}`);
  setText($("try-curl-code"), refused ? `# ${refused}` : lines.join(" \\\n  "));
}

// A link sends no key: where one is needed, the metrics are fetched and shown here.

async function metrics(event) {
  if (!locked && !hasKey()) return;
  event.preventDefault();
  setText($("metrics-text"), "");
  setText($("metrics-error"), "");
  try {
    setText($("metrics-text"), await (await request("metrics")).text());
    if (locked) reconnect();
  } catch (error) {
    setText($("metrics-error"), error.message);
  }
  $("metrics").showModal();
}

// The page

$("try-form").addEventListener("submit", submit);
$("try-form").addEventListener("input", () => {
  userChose = true;
  curl();
});
$("try-as").addEventListener("change", () => {
  form.choice();
  curl();
});
$("try-model").addEventListener("change", () => {
  userChose = true;
  describe($("try-model").value);
});
$("try-example").addEventListener("click", () => {
  form.example();
  curl();
});
$("job-cancel").addEventListener("click", job.cancel);
$("link-again").addEventListener("click", reconnect);
$("metrics-link").addEventListener("click", metrics);
$("key-forget").addEventListener("click", () => {
  forget();
  location.reload();
});

let hiding = 0;
document.addEventListener("visibilitychange", () => {
  clearTimeout(hiding);
  if (document.hidden) hiding = setTimeout(stop, HIDDEN_MS);
  else start();
});

recent.show(reopen);
recent.waitForEnds(reopen);
setInterval(tick, 1000);
start();
