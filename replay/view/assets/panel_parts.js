// Pieces that the panels share: sentences, tables, tokens, links to tokens, commands to copy.

import { copyButton, fill, h, recorded } from "./dom.js";
import { whole } from "./numbers.js";
import { commandLine } from "./shell.js";

const ROWS_AT_ONCE = 50;
const TOKEN_ON_ONE_LINE = 24;
const LONG_TEXT = 4000;

/**
 * A panel that is drawn again when the run has grown. `draw()` gives its children; `signature()`
 * gives a value that changes with what they show, so that an open fold stays open otherwise.
 */
export function livePanel(view, signature, draw) {
  const panel = h("div", { class: "panel" });
  let drawn = null;
  const update = () => {
    const now = String(signature());
    if (now === drawn) return;
    drawn = now;
    fill(panel, draw());
  };
  update();
  view.onUpdate(update);
  return panel;
}

/** A number of any size in at most five characters: "0", "3.1e-7", "0.0123", "12.3", "1,204". */
export function shortNumber(value) {
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  const size = Math.abs(value);
  if (size === 0) return "0";
  if (size < 0.001 || size >= 1e6) return value.toExponential(1);
  if (size >= 1000) return whole(Math.round(value));
  return String(Number(value.toPrecision(3)));
}

/** A token in a box. One that has no text shows its id. */
export function tokenBox(token, className = "") {
  const isLong = (token?.text ?? "").length > TOKEN_ON_ONE_LINE;
  const box = h("code", { class: `token ${className} ${isLong ? "" : "short"}` });
  if (token === null || token === undefined) box.append(h("span", { class: "muted" }, "no token"));
  else if (token.text) box.append(recorded(token.text));
  else box.append(h("span", { class: "muted" }, `id ${token.id ?? token.token_id ?? "not known"}`));
  return box;
}

/** Recorded text of any length; a long one is cut, and its length said. */
export function recordedText(given) {
  const text = String(given ?? "");
  const part = h("span", { class: "recorded" }, recorded(text.slice(0, LONG_TEXT)));
  if (text.length > LONG_TEXT) {
    part.append(h("span", { class: "muted" }, `… (${whole(text.length)} characters)`));
  }
  return part;
}

/** A recorded text; of a checksum only the beginning. */
export function shortSum(text) {
  const isSum = /^[0-9a-f]{64}$/.test(text ?? "");
  return isSum ? h("span", { class: "mono" }, `${text.slice(0, 16)}…`) : recordedText(text);
}

/** A link to a token in the transcript. */
export function tokenLink(view, index, ...label) {
  return h("a", { href: view.hashOf(index) }, ...label);
}

/** A link to a turn in the transcript; only the label where the page does not show that turn. */
export function turnLink(view, turn, ...label) {
  return view.turns.has(turn) ? h("a", { href: `#t${turn}` }, ...label) : label;
}

/**
 * A table whose rows become cards on a narrow screen, unless its class is "small".
 *
 * `columns`: {name, title}, with `number` for numbers and `wide` for long values. `rows`: their
 * cells by the name of the column, and `rowClass`.
 */
export function dataTable(caption, columns, rows, className = "cards") {
  const head = columns.map((each) =>
    h("th", { scope: "col", role: "columnheader", class: each.number ? "n" : "" }, each.title),
  );
  const body = h("tbody", { role: "rowgroup" });
  const table = h(
    "table",
    { class: `data ${className}`, role: "table" },
    caption ? h("caption", {}, caption) : null,
    h("thead", { role: "rowgroup" }, h("tr", { role: "row" }, ...head)),
    body,
  );
  const add = (row) => {
    const cells = columns.map((each, index) =>
      h(
        index === 0 ? "th" : "td",
        {
          role: index === 0 ? "rowheader" : "cell",
          scope: index === 0 ? "row" : null,
          class: `${each.number ? "n" : ""} ${each.wide ? "wide" : ""}`,
          "data-label": each.title,
        },
        ...[row[each.name] ?? "–"].flat(),
      ),
    );
    body.append(h("tr", { role: "row", class: row.rowClass ?? "" }, ...cells));
  };
  return addInParts(table, rows, add, "rows");
}

/** `container` with the first rows; a button adds the next ones. */
export function addInParts(container, rows, add, noun, atOnce = ROWS_AT_ONCE) {
  let shown = 0;
  const showMore = () => {
    for (const row of rows.slice(shown, shown + atOnce)) add(row);
    shown = Math.min(shown + atOnce, rows.length);
  };
  showMore();
  if (rows.length <= shown) return container;
  const button = h("button", { type: "button", class: "quiet more" });
  const say = () => {
    const next = Math.min(atOnce, rows.length - shown);
    button.textContent = `Show ${whole(next)} more of ${whole(rows.length)} ${noun}`;
  };
  button.addEventListener("click", () => {
    showMore();
    if (shown < rows.length) say();
    else button.remove();
  });
  say();
  return h("div", { class: "parts" }, container, button);
}

/** Return a command with a button that copies it. `argv`: the arguments, or the line. */
export function commandBox(argv, what = "the command") {
  const line = Array.isArray(argv) ? commandLine(argv) : argv;
  const copy = copyButton(line, { name: `Copy ${what}` });
  return h("div", { class: "command" }, h("pre", { tabindex: "0" }, h("code", {}, recorded(line))), copy);
}

/** A part of the page that is made when it is opened. */
export function unfolding(title, make, { open = false, className = "" } = {}) {
  const details = h("details", { class: className }, h("summary", {}, ...[title].flat()));
  const fill = () => {
    if (details.open && details.childElementCount === 1) details.append(...[make()].flat(Infinity).filter(Boolean));
  };
  details.addEventListener("toggle", fill);
  details.open = open;
  fill();
  return details;
}
