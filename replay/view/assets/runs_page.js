// The page of all runs of a store.
import { h } from "./dom.js";

/** Return the page of the runs of a served store; `runsDocument` is what the server sent. */
export function runsPage(runsDocument) {
  return h("p", { class: "muted" }, "Not drawn yet.");
}
