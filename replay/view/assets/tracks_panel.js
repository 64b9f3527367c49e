// Activations and interventions over the tokens.
import { h } from "./dom.js";

/** Return the panel of the inside of the model. */
export function tracksPanel(view) {
  return h("p", { class: "muted" }, "Not drawn yet.");
}
