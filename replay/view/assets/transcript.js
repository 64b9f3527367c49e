// The conversation of a run.
import { h, recordedLines } from "./dom.js";

/** Return the transcript of a run. */
export function runTranscript(view) {
  return h("div", { class: "transcript" }, view.document.turns.map((turn) =>
    h("article", { id: `t${turn.turn}` },
      h("h3", null, `Turn ${turn.turn}`),
      turn.rounds.map((round) => h("p", { class: "reply" }, recordedLines(round.text))))));
}
