// Starting a fork on the server that has the model loaded.
import { serverAnswer } from "./live.js";

const FORK_POLL_MS = 700;

/**
 * Start a fork at a candidate of a token, and return the path of its page once it has begun.
 * `report` is called with a text while that takes time. Throw an error with a sentence.
 */
export async function startFork(view, index, tokenId, report = () => {}) {
  const { turn, step } = view.tokens;
  const point = {
    run_id: view.document.run.run_id,
    turn: turn[index],
    token: step[index],
    token_id: tokenId,
  };
  let state = await serverAnswer("/api/fork", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(point),
  });
  while (true) {
    const { model, fork } = state;
    if (!isSamePoint(fork, point)) throw new Error("another fork was started meanwhile");
    if (fork.state === "failed") throw new Error(fork.error);
    if (fork.run_id) return `/run/${fork.run_id}`;
    report(model.state === "loading" ? `The model ${model.name} is loading …` : "The fork starts …");
    await new Promise((resolve) => { setTimeout(resolve, FORK_POLL_MS); });
    state = await serverAnswer("/api/forks");
  }
}

/** Wait until a fork has ended, and return a sentence that says how; null if another was started. */
export async function forkEnd(path) {
  while (true) {
    await new Promise((resolve) => { setTimeout(resolve, FORK_POLL_MS); });
    const { fork } = await serverAnswer("/api/forks");
    if (!fork || `/run/${fork.run_id}` !== path) return null;
    if (fork.state === "failed") return `The fork failed: ${fork.error}`;
    if (fork.state === "finished") return "The fork has finished.";
  }
}

function isSamePoint(fork, point) {
  return fork && fork.parent === point.run_id && fork.turn === point.turn
    && fork.token === point.token && fork.token_id === point.token_id;
}
