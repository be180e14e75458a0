// Has each Celery client submit and wait, and prints what it was told: node clients.mjs URL < {"good": row, "bad": row}
// {client: {"answers": [labels, ...], "named": labels, "failure": Celery's form of an exception}}
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";

const require = createRequire(process.env.NODE_CLIENTS);
const url = process.argv[2];
const { good, bad } = JSON.parse(readFileSync(0));
const TIMEOUT_MS = 20000;

function celeryNode() {
  const client = require("celery-node").createClient(url, url, "mutirao.iris");
  return async (args, kwargs) => {
    const result = client.sendTask("mutirao.predict", args, kwargs);
    try {
      return await result.get(TIMEOUT_MS, 20); // it polls
    } catch (error) {
      return { exc_type: error.exc_type, exc_message: error.exc_message, exc_module: error.exc_module };
    }
  };
}

function celeryTs() {
  const task = require("celery-ts").createClient({ brokerUrl: url, resultBackend: url }).createTask("mutirao.predict");
  // It subscribes to celery-task-meta-*, and returns a failure as it returns a result.
  return async (args, kwargs) => task.applyAsync({ args, kwargs, queue: "mutirao.iris" }).get(TIMEOUT_MS);
}

const labels = (response) => response.outputs[0].data;
const said = {};
for (const [name, make] of Object.entries({ "celery-node": celeryNode, "celery-ts": celeryTs })) {
  const ask = make();
  const answers = [];
  for (const row of good) answers.push(labels(await ask(["iris", [row]], {})));
  const named = labels(await ask([], { model: "iris", request: good }));
  said[name] = { answers, named, failure: await ask(["iris", [bad]], {}) };
}
console.log(JSON.stringify(said));
process.exit(0); // celery-ts keeps timers for a day
