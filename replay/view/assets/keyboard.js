// The keys of a run's page, and the dialog that lists them.
import { h } from "./dom.js";

const KEYS = [
  ["← →", "previous and next token"],
  ["↑ ↓", "the token above and below, in the transcript"],
  ["n p", "next and previous turn"],
  ["l", "least sure token"],
  ["Enter", "from a token to its candidates"],
  ["Esc", "back to the token"],
  ["PgUp PgDn", "on the strip: back and on by a twentieth of the run"],
  ["?", "this list"],
];

/** Return the dialog with the keys of the page. */
export function helpDialog() {
  const dialog = h("dialog", { class: "help", "aria-label": "Keys of this page" },
    h("h2", null, "Keys"),
    h("dl", { class: "pairs" }, KEYS.map(([key, says]) =>
      [h("dt", null, key.split(" ").map((each, at) => [at > 0 && " ", h("kbd", null, each)])), h("dd", null, says)])),
    h("p", { class: "muted" }, "To find text, use the search of your browser: all text of the transcript is in the page."),
    h("form", { method: "dialog" }, h("button", { class: "quiet" }, "Close")));
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
  return dialog;
}

// Where keys are text, and what has arrow keys and Enter for itself.
const TEXT_FIELDS = "input, textarea, select, [contenteditable]";
const OWN_KEYS = "[role=tab], [role=radio], summary, pre";
const KEYS_EVERYWHERE = new Set(["?", "n", "p", "l"]);

/** Listen to the keys of a run's page. `chunks` finds the token above and below. */
export function listenToKeys(view, chunks, dialog) {
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented || dialog.open) return;
    const { target } = event;
    if (target.closest?.(TEXT_FIELDS)) return;
    if (target.closest?.(OWN_KEYS) && !KEYS_EVERYWHERE.has(event.key)) {
      if (event.key === "Escape" && target.closest(".inspector")) focusSelected(view, chunks);
      return;
    }
    if (target.closest?.("button, a") && event.key === "Enter") return;
    const act = keyAction(view, chunks, dialog, event.key);
    if (!act) return;
    event.preventDefault();
    act();
    // The arrow keys that follow are for tokens.
    if (target.closest?.(OWN_KEYS) && event.key !== "?") focusSelected(view, chunks);
  });
}

function keyAction(view, chunks, dialog, key) {
  const { count } = view.tokens;
  const isReading = !document.getElementById("transcript")?.hidden;
  if (key === "?") return () => dialog.showModal();
  if (!count || !(isReading || KEYS_EVERYWHERE.has(key))) return null;
  const at = view.selected ?? 0;
  const isInReply = document.activeElement?.closest(".reply");
  switch (key) {
    case "ArrowRight": return () => view.select(Math.min(count - 1, at + 1));
    case "ArrowLeft": return () => view.select(Math.max(0, at - 1));
    case "ArrowDown": return isInReply ? () => moveLine(view, chunks, 1) : null;
    case "ArrowUp": return isInReply ? () => moveLine(view, chunks, -1) : null;
    case "n": return () => moveTurn(view, 1);
    case "p": return () => moveTurn(view, -1);
    case "l": return () => view.select(view.document.highlights.least_sure_token ?? at);
    case "Enter": return focusCandidates;
    case "Escape": return () => focusSelected(view, chunks);
    default: return null;
  }
}

function focusCandidates() {
  const toggle = document.querySelector(".sheet-toggle");
  // On a narrow screen the inspector is a sheet that may be closed.
  if (toggle.checkVisibility() && toggle.getAttribute("aria-expanded") === "false") toggle.click();
  document.querySelector(".candidates [tabindex='0']")?.focus();
}

function focusSelected(view, chunks) {
  if (view.selected !== null) chunks.spanOf(view.selected)?.closest(".reply")?.focus({ preventScroll: true });
}

/** Select the first token of the next or previous turn that has tokens. */
function moveTurn(view, direction) {
  const turns = view.document.turns.filter((turn) => turn.tokens);
  const at = turns.indexOf(view.selected === null ? turns[0] : view.turnOf(view.selected));
  const next = turns[Math.max(0, Math.min(turns.length - 1, at + direction))];
  if (next) view.select(next.first_token);
}

/** Select the token above or below the selected one on the screen. */
function moveLine(view, chunks, direction) {
  const { count } = view.tokens;
  const here = view.selected !== null && chunks.spanOf(view.selected)?.getClientRects()[0];
  if (!here) return;
  let best = null;
  let line = null;
  for (let index = view.selected + direction; index >= 0 && index < count; index += direction) {
    const box = chunks.spanOf(index)?.getClientRects()[0];
    if (!box) continue;
    const isOther = direction * (box.top - here.top) > here.height / 2;
    if (!isOther) continue;
    line ??= box.top;
    if (Math.abs(box.top - line) > here.height / 2) break;
    const distance = Math.abs(box.left - here.left);
    if (best && distance > best.distance) break;
    best = { index, distance };
  }
  if (best) view.select(best.index);
}
