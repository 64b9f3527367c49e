// What the cache saved, turn by turn.
import { h } from "./dom.js";

/** Return the panel of the cache. */
export function cachePanel(view) {
  return h("p", { class: "muted" }, "Not drawn yet.");
}
