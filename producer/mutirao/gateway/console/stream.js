// Server-sent events over fetch: EventSource can send no Authorization header.

import { request } from "./access.js";

const SILENT_MS = 20_000; // the gateway sends at least a comment every 15 s
const RETRY_MAX_MS = 15_000;

/**
 * Follow a stream, and connect again when it breaks.
 *
 * @param {string} path
 * @param {object} listener
 * @param {(event: {name: string, id: string, data: string}) => void} listener.onEvent
 * @param {(state: string, more?: object) => void} listener.onState connecting, live, lost {error, retryMs}, refused {error}, ended
 * @returns {{stop: () => void, retry: () => void}}
 */
export function follow(path, { onEvent, onState }) {
  let stopped = false;
  let abort = () => {};
  let retryNow = () => {};
  let waitMs = 500;
  let lastId = "";

  async function once() {
    const control = new AbortController();
    let timer = 0;
    const onPiece = () => {
      clearTimeout(timer);
      timer = setTimeout(() => control.abort(new Error("the gateway sends nothing")), SILENT_MS);
    };
    abort = () => control.abort();
    const headers = { Accept: "text/event-stream", ...(lastId && { "Last-Event-ID": lastId }) };
    try {
      const response = await request(path, { headers, signal: control.signal });
      onState("live");
      onPiece();
      for await (const received of read(response.body, onPiece)) {
        waitMs = 500;
        lastId = received.id || lastId;
        onEvent(received);
      }
    } finally {
      clearTimeout(timer);
      control.abort();
    }
  }

  async function run() {
    while (!stopped) {
      onState("connecting");
      let error = null;
      try {
        await once();
      } catch (reason) {
        error = reason;
      }
      if (stopped) return;
      if (error?.status && error.status < 500 && error.status !== 429) return onState("refused", { error });
      if (onState("lost", { error, retryMs: waitMs }) === "stop") return;
      await new Promise((resolve) => {
        retryNow = resolve;
        setTimeout(resolve, waitMs);
      });
      waitMs = Math.min(RETRY_MAX_MS, waitMs * 2);
    }
  }

  run();
  return {
    stop() {
      stopped = true;
      abort();
      retryNow();
    },
    retry: () => retryNow(),
  };
}

/** Read events from a body, as the HTML standard says; `onPiece` is called for every piece, comments too. */
async function* read(body, onPiece) {
  let rest = "";
  let event = { name: "message", id: "", data: [] };
  const text = body.pipeThrough(new TextDecoderStream());
  for await (const piece of pieces(text)) {
    onPiece();
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
