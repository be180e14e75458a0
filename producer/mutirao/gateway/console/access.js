// Requests to the gateway, with a key where it needs one. The key is kept in this tab's sessionStorage, and is sent nowhere else.

import { $ } from "./dom.js";

const STORAGE_KEY = "mutirao.key";
let prompting = null;

/** An error of the gateway: its sentence, its status, and the seconds after which to try again. */
export class GatewayError extends Error {
  constructor(text, status, afterS) {
    super(text);
    Object.assign(this, { status, afterS });
  }
}

/** Fetch an address of this gateway; after a 401, ask the user for a key and try again. */
export async function request(path, { headers = {}, ...options } = {}) {
  for (;;) {
    const key = sessionStorage.getItem(STORAGE_KEY);
    const authorization = key ? { Authorization: `Bearer ${key}` } : {};
    const response = await fetch(path, { ...options, headers: { ...headers, ...authorization }, cache: "no-store", credentials: "omit" });
    if (response.ok) return response;
    const error = await errorOf(response);
    if (response.status !== 401 || !(await replaceKey(key, error.message))) throw error;
  }
}

export const hasKey = () => sessionStorage.getItem(STORAGE_KEY) !== null;

export function forget() {
  sessionStorage.removeItem(STORAGE_KEY);
}

async function errorOf(response) {
  const after = Number(response.headers.get("Retry-After")) || null;
  try {
    const { error } = await response.json();
    return new GatewayError(error || response.statusText, response.status, after);
  } catch {
    return new GatewayError(`the gateway answered ${response.status} ${response.statusText}`.trim(), response.status, after);
  }
}

/** Replace the key that was refused: ask the user, once for all requests that wait for it. Return whether there is another. */
async function replaceKey(refused, why) {
  const current = sessionStorage.getItem(STORAGE_KEY);
  if (current !== refused && current !== null) return true;
  prompting ??= promptForKey(refused ? why : "").finally(() => (prompting = null));
  return prompting;
}

function promptForKey(why) {
  const dialog = $("key");
  $("key-error").textContent = why;
  $("key-value").value = "";
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise((answer) => {
    dialog.addEventListener(
      "close",
      () => {
        const value = $("key-value").value.trim();
        $("key-value").value = "";
        const entered = dialog.returnValue === "use" && value !== "";
        if (entered) sessionStorage.setItem(STORAGE_KEY, value);
        answer(entered);
      },
      { once: true },
    );
  });
}

$("key-not").addEventListener("click", () => $("key").close());
