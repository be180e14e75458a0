// Server-sent events over fetch: EventSource can send no Authorization header.

import { ask } from "./access.js";

const SILENT_MS = 20_000; // the gateway says at least a comment every 15 s
const LONGEST_MS = 15_000;

/**
 * Follow a stream, and come back to it when it breaks.
 *
 * @param {string} path
 * @param {object} told
 * @param {(event: {name: string, id: string, data: string}) => void} told.event
 * @param {(state: string, more?: object) => void} told.state connecting, live, lost {error, retryMs}, refused {error}, ended
 * @returns {{stop: () => void, again: () => void}}
 */
export function follow(path, { event, state }) {
  let stopped = false;
  let cut = () => {};
  let wake = () => {};
  let waitMs = 500;
  let lastId = "";

  async function once() {
    const control = new AbortController();
    let timer = 0;
    const heard = () => {
      clearTimeout(timer);
      timer = setTimeout(() => control.abort(new Error("the gateway fell silent")), SILENT_MS);
    };
    cut = () => control.abort();
    const headers = { Accept: "text/event-stream", ...(lastId && { "Last-Event-ID": lastId }) };
    try {
      const response = await ask(path, { headers, signal: control.signal });
      state("live");
      heard();
      for await (const got of read(response.body, heard)) {
        waitMs = 500;
        lastId = got.id || lastId;
        event(got);
      }
    } finally {
      clearTimeout(timer);
      control.abort();
    }
  }

  async function run() {
    while (!stopped) {
      state("connecting");
      let error = null;
      try {
        await once();
      } catch (caught) {
        error = caught;
      }
      if (stopped) return;
      if (error?.status && error.status < 500 && error.status !== 429) return state("refused", { error });
      if (state("lost", { error, retryMs: waitMs }) === "stop") return;
      await new Promise((go) => {
        wake = go;
        setTimeout(go, waitMs);
      });
      waitMs = Math.min(LONGEST_MS, waitMs * 2);
    }
  }

  run();
  return {
    stop() {
      stopped = true;
      cut();
      wake();
    },
    again: () => wake(),
  };
}

/** Read events from a body, as the HTML standard says; `heard` is called for every piece, comments too. */
async function* read(body, heard) {
  let rest = "";
  let event = { name: "message", id: "", data: [] };
  const text = body.pipeThrough(new TextDecoderStream());
  for await (const piece of pieces(text)) {
    heard();
    const lines = (rest + piece).split(/\r\n|\n|\r(?!$)/);
    rest = lines.pop();
    for (const line of lines) {
      if (line === "") {
        if (event.data.length) yield { ...event, data: event.data.join("\n") };
        event = { name: "message", id: event.id, data: [] };
      } else {
        field(event, line);
      }
    }
  }
}

function field(event, line) {
  const colon = line.indexOf(":");
  if (colon === 0) return;
  const name = colon < 0 ? line : line.slice(0, colon);
  const value = colon < 0 ? "" : line.slice(colon + 1).replace(/^ /, "");
  if (name === "data") event.data.push(value);
  else if (name === "event") event.name = value;
  else if (name === "id") event.id = value;
}

async function* pieces(stream) {
  const reader = stream.getReader();
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      yield value;
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}
