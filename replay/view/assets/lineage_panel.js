// The tree of forks.
import { h } from "./dom.js";

/** Return the panel of the forks. */
export function lineagePanel(view) {
  return h("p", { class: "muted" }, "Not drawn yet.");
}
