// The page of a diff of two runs.
import { h } from "./dom.js";

/** Return the page of a diff; `diffDocument` is its document. */
export function diffPage(diffDocument) {
  return h("p", { class: "muted" }, "Not drawn yet.");
}
