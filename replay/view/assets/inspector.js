// Part of the page of a run.
import { h } from "./dom.js";

/** Return the inspector of a run's page. */
export function tokenInspector(view) {
  return h("div", { class: "inspector" });
}
