// Part of the page of a run.
import { h } from "./dom.js";

/** Return the strip of a run's page. */
export function runStrip(view) {
  return h("div", { class: "strip" });
}
