// The verdicts of replays.
import { h } from "./dom.js";

/** Return the panel of the replays. */
export function verdictsPanel(view) {
  return h("p", { class: "muted" }, "Not drawn yet.");
}
