// Part of the page of a run.
import { h } from "./dom.js";

/** Return the header of a run's page. */
export function runHeader(view) {
  return h("div", { class: "header" });
}
