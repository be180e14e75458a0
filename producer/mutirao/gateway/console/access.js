// Asking the gateway, with a key where it wants one. The key lives in this tab's sessionStorage, and goes nowhere else.

import { $ } from "./dom.js";

const KEPT = "mutirao.key";
let asking = null;

/** What the gateway refused: its own sentence, its status, and in how many seconds to try again. */
export class Refused extends Error {
  constructor(text, status, afterS) {
    super(text);
    Object.assign(this, { status, afterS });
  }
}

/** Fetch an address of this gateway; a 401 asks the person for a key and tries again. */
export async function ask(path, { headers = {}, ...options } = {}) {
  for (;;) {
    const key = sessionStorage.getItem(KEPT);
    const own = key ? { Authorization: `Bearer ${key}` } : {};
    const response = await fetch(path, { ...options, headers: { ...headers, ...own }, cache: "no-store", credentials: "omit" });
    if (response.ok) return response;
    const refused = await read(response);
    if (response.status !== 401 || !(await another(key, refused.message))) throw refused;
  }
}

export const hasKey = () => sessionStorage.getItem(KEPT) !== null;

export function forget() {
  sessionStorage.removeItem(KEPT);
}

async function read(response) {
  const after = Number(response.headers.get("Retry-After")) || null;
  try {
    const { error } = await response.json();
    return new Refused(error || response.statusText, response.status, after);
  } catch {
    return new Refused(`the gateway answered ${response.status} ${response.statusText}`.trim(), response.status, after);
  }
}

/** Have another key than the one that was refused: what the person gives, once for all that ask at the same time. */
async function another(refused, why) {
  const now = sessionStorage.getItem(KEPT);
  if (now !== refused && now !== null) return true;
  asking ??= fromPerson(refused ? why : "").finally(() => (asking = null));
  return asking;
}

function fromPerson(why) {
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
        const given = dialog.returnValue === "use" && value !== "";
        if (given) sessionStorage.setItem(KEPT, value);
        answer(given);
      },
      { once: true },
    );
  });
}

$("key-not").addEventListener("click", () => $("key").close());
