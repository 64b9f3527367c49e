// Served pages: what the server answers, and a run that is followed while it goes on.
import { recorded, fill, h } from "./dom.js";

const RUNNING_POLL_MS = 1000;
const ENDED_POLL_MS = 10000;
const SHARE_OF_TIME = 4;
const NEAR_END_PX = 160;

/**
 * Return what the server answers at a path as a value, null if nothing is new.
 * Throw an error with the sentence and the `status` of a refusal; `status` is 0 without an answer.
 */
export async function serverAnswer(path, options = {}) {
  let response;
  try {
    response = await fetch(path, { credentials: "same-origin", cache: "no-store", ...options });
  } catch {
    throw refusal("the server does not answer: it has stopped, or the connection is lost", 0);
  }
  if (response.status === 204) return null;
  const text = await response.text();
  if (response.ok) return JSON.parse(text);
  throw refusal(sentenceOf(text) || `the server answers ${response.status}`, response.status);
}

/** Remove the token of the server from the address bar: the browser has it as a cookie. */
export function forgetToken() {
  const address = new URL(location.href);
  if (!address.searchParams.has("token")) return;
  address.searchParams.delete("token");
  history.replaceState(history.state, "", address);
}

/** Follow the run of a served page: fetch what is new and call `view.update(document)`. */
export function followLive(view) {
  const notice = h("p", { class: "live-notice", role: "status" });
  document.body.append(notice);
  const say = (text, isBad = false) => {
    notice.classList.toggle("bad", isBad);
    if (notice.textContent !== text) fill(notice, recorded(text));
  };
  const poll = async () => {
    await untilVisible();
    const began = performance.now();
    try {
      const newer = await serverAnswer(livePath(view.document));
      if (newer) keepingPlace(() => view.update(newer));
      say(isRunning(view.document) ? "Live: this page grows with the run" : "");
    } catch (error) {
      if (error.status === undefined) throw error;
      say(`This page no longer follows the run: ${error.message}`, true);
      // A run that was erased does not come back; a server may.
      if (error.status !== 0) return;
    }
    const pause = isRunning(view.document) ? RUNNING_POLL_MS : ENDED_POLL_MS;
    setTimeout(poll, Math.max(pause, SHARE_OF_TIME * (performance.now() - began)));
  };
  setTimeout(poll, RUNNING_POLL_MS);
}

/** Return a promise of a full result of a tool, `{text, note}`, of a page without payloads. */
export function loadPayload(view, sha256) {
  return serverAnswer(`/api/run/${view.document.run.run_id}/payload/${sha256}`);
}

function livePath(shown) {
  // The tokens of the last turn are fetched again: an interrupted turn may be continued.
  const first = shown.turns.at(-1)?.first_token ?? 0;
  const version = encodeURIComponent(shown.served.version ?? "");
  return `/api/run/${shown.run.run_id}?tokens_from=${first}&version=${version}`;
}

function isRunning(shown) {
  return String(shown.run.status).startsWith("running");
}

function refusal(sentence, status) {
  return Object.assign(new Error(sentence), { status });
}

/** Return the sentence of a refusal, which is JSON or plain text. */
function sentenceOf(text) {
  try {
    return String(JSON.parse(text).error);
  } catch {
    return text.trim().slice(0, 500);
  }
}

function untilVisible() {
  if (!document.hidden) return Promise.resolve();
  return new Promise((resolve) => {
    document.addEventListener("visibilitychange", resolve, { once: true });
  });
}

/** Change the page; what is in view stays there, or the end of the transcript does. */
function keepingPlace(change) {
  const transcript = document.getElementById("transcript");
  const edges = () => transcript?.getBoundingClientRect() ?? { top: 0, bottom: 0 };
  const before = edges();
  const followsEnd = before.bottom > 0 && before.bottom < innerHeight + NEAR_END_PX;
  change();
  const after = edges();
  const moved = followsEnd ? after.bottom - before.bottom : after.top - before.top;
  if (Math.abs(moved) >= 1) scrollBy({ top: moved, behavior: "instant" });
}
