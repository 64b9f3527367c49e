// The text of a token id.
import { h, recorded } from "./dom.js";

/** Return the text of a token id in visible characters, as code. */
export function tokenCode(view, id) {
  const text = view.text(id);
  if (text === null) return h("code", { class: "token" }, id < 0 ? "redacted" : `⟨${id}⟩`);
  return h("code", { class: "token" }, text === "" ? h("span", { class: "esc" }, "no text") : recorded(text));
}
