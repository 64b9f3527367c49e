// The replies of a turn in two runs, side by side, with their tokens aligned.

import { h, recordedLines } from "./dom.js";
import { counted, decimal, whole } from "./numbers.js";
import { tokenBox, unfolding } from "./panel_parts.js";

// Equal tokens after which the two sides begin on the same line again.
const SYNC_TOKENS = 12;
// Equal tokens that stay in sight on either side of a difference; the ones between are folded.
const CONTEXT_TOKENS = 24;
const FOLDED_TOKENS_MIN = 40;
const ROWS_AT_ONCE_OF_REPLY = 100;
const MARKED_TOKENS_MAX = 200;
const SPELLED_BYTES = /(?:<0x[0-9A-Fa-f]{2}>)+/g;

/** The text of tokens, with spelled bytes decoded where they are UTF-8. */
function joinedText(texts) {
  return texts.join("").replace(SPELLED_BYTES, (spelled) => {
    const bytes = Uint8Array.from(spelled.match(/[0-9A-Fa-f]{2}(?=>)/g), (each) => parseInt(each, 16));
    try {
      return new TextDecoder("utf-8", { fatal: true }).decode(bytes);
    } catch {
      return spelled;
    }
  });
}

/**
 * The alignment in rows. A row is `{folded, from, to}` for equal tokens out of sight, else
 * `{cells}`: pieces `{kind, operation, a: [start, end], b: [start, end]}`.
 */
export function alignedRows(alignment) {
  const rows = [];
  let cells = [];
  const close = () => {
    if (cells.length) rows.push({ cells });
    cells = [];
  };
  const equal = (operation, a, b, length) =>
    cells.push({ kind: "equal", operation, a: [a, a + length], b: [b, b + length] });
  alignment.forEach(([kind, a0, a1, b0, b1], operation) => {
    if (kind !== "equal") {
      cells.push({ kind, operation, a: [a0, a1], b: [b0, b1] });
      return;
    }
    const length = a1 - a0;
    const before = operation === 0 ? 0 : CONTEXT_TOKENS;
    const after = operation === alignment.length - 1 ? 0 : CONTEXT_TOKENS;
    if (length - before - after >= FOLDED_TOKENS_MIN) {
      if (before) equal(operation, a0, b0, before);
      close();
      rows.push({ folded: length - before - after, from: a0 + before, to: a1 - after });
      if (after) equal(operation, a1 - after, b1 - after, after);
    } else {
      equal(operation, a0, b0, length);
      if (length >= SYNC_TOKENS) close();
    }
  });
  close();
  return rows;
}

function tokenTitle(token) {
  const forced = token.forced ? ", chosen by the experimenter" : "";
  return `id ${token.id}, log-probability ${decimal(token.logprob, 3)}${forced}`;
}

/** The tokens of one side that the other side does not have. */
function differingPiece(view, turn, side, [start, end]) {
  if (start === end) return h("span", { class: "gap", role: "img", "aria-label": "no tokens here" }, "∅");
  if (end - start > MARKED_TOKENS_MAX) {
    return h("mark", { class: `differs-${side}` }, recordedLines(joinedText(view.textsOf(side, turn, start, end))));
  }
  const tokens = [];
  for (let index = start; index < end; index++) {
    const token = view.token(side, turn, index);
    const text = token.text ? recordedLines(token.text) : `<id ${token.id}>`;
    tokens.push(h("span", { class: "differing-token", title: tokenTitle(token) }, text));
  }
  return h("mark", { class: `differs-${side}` }, tokens);
}

function cellOf(view, turn, side, cells, targetOf) {
  const parts = cells.map((each) => {
    if (each.kind === "equal") return recordedLines(joinedText(view.textsOf(side, turn, ...each[side])));
    const piece = differingPiece(view, turn, side, each[side]);
    const target = targetOf(each.operation);
    if (target === null) return piece;
    piece.setAttribute(side === "a" ? "data-difference" : "data-counterpart", target);
    if (side === "a") piece.setAttribute("tabindex", "-1");
    return piece;
  });
  return h("div", { class: `cell cell-${side}`, "data-side": side }, parts);
}

function replyRow(view, turn, row, targetOf) {
  if (row.folded) {
    return h(
      "div",
      { class: "folded-row" },
      unfolding(`${counted(row.folded, "token")} that are the same`, () =>
        h("p", { class: "passage" }, recordedLines(joinedText(view.textsOf("a", turn, row.from, row.to))))),
    );
  }
  return h("div", { class: "aligned-row" }, cellOf(view, turn, "a", row.cells, targetOf), cellOf(view, turn, "b", row.cells, targetOf));
}

/** "Token 5: a has X, b has Y", for the first difference of a reply. */
function firstDifference(view, turn) {
  const first = turn.alignment.find(([kind]) => kind !== "equal");
  if (!first) return null;
  const [, a0, a1, b0, b1] = first;
  const token = (side, start, end) =>
    start < turn[side].tokens ? view.token(side, turn, start) : null;
  const shown = (side, start, end) => {
    const found = token(side, start, end);
    if (!found) return "nothing, its reply has ended";
    return [tokenBox(found, side === "a" ? "old" : "new"), ` (${tokenTitle(found)})`];
  };
  return h("p", {}, `The replies differ from token ${whole(a0)} on: a has `, shown("a", a0, a1), ", b has ", shown("b", b0, b1), ".");
}

function oneSided(turn, side) {
  return h("p", { class: "passage" }, h("span", { class: "side-name" }, side), " ", recordedLines(turn[side].text));
}

function userLines(turn) {
  const side = turn.a ? (turn.b ? null : "a") : "b";
  if (side) return turn[side]?.user ? saidBy(turn, side) : null;
  const [a, b] = [turn.a?.user ?? "", turn.b?.user ?? ""];
  if (a === b) return a ? h("p", { class: "said" }, h("span", { class: "muted" }, "user "), recordedLines(a)) : null;
  return h("div", { class: "two" }, saidBy(turn, "a"), saidBy(turn, "b"));
}

function saidBy(turn, side) {
  const name = h("span", { class: "side-name" }, side);
  return h("p", { class: "said" }, name, h("span", { class: "muted" }, " user "), recordedLines(turn[side].user ?? ""));
}

/** Return the user's message and both replies of a turn. */
export function repliesSideBySide(view, turn) {
  if (!turn.a && !turn.b) return null;
  if (!turn.a || !turn.b) return [userLines(turn), oneSided(turn, turn.a ? "a" : "b")];
  // Without ids, as in a redacted run, there is no alignment.
  if (!turn.alignment.length && turn.a.text !== turn.b.text) {
    return [userLines(turn), h("div", { class: "two" }, oneSided(turn, "a"), oneSided(turn, "b"))];
  }
  if (turn.alignment.every(([kind]) => kind === "equal")) {
    return [userLines(turn), unfolding("The reply, the same in both runs", () => h("p", { class: "passage" }, recordedLines(turn.a.text)))];
  }
  const targets = new Map();
  view.targets.forEach((each, index) => each.turn === turn.turn && targets.set(each.operation, index));
  const rows = alignedRows(turn.alignment);
  const holder = h("div", { class: "aligned" });
  let shown = 0;
  const more = h("button", { type: "button", class: "quiet more" });
  const showTo = (end) => {
    for (; shown < Math.min(end, rows.length); shown++) {
      holder.append(replyRow(view, turn, rows[shown], (operation) => targets.get(operation) ?? null));
    }
    more.hidden = shown >= rows.length;
    more.textContent = `Show more of the replies (${whole(rows.length - shown)} rows)`;
  };
  more.addEventListener("click", () => showTo(shown + ROWS_AT_ONCE_OF_REPLY));
  showTo(ROWS_AT_ONCE_OF_REPLY);
  view.onOpen(turn, (operation) => {
    const row = rows.findIndex((each) => each.cells?.some((cell) => cell.operation === operation && cell.kind !== "equal"));
    if (row >= shown) showTo(row + 1);
  });
  const heads = h("div", { class: "aligned-row heads", "aria-hidden": "true" }, h("span", { class: "side-name" }, "a"), h("span", { class: "side-name" }, "b"));
  return [userLines(turn), firstDifference(view, turn), heads, holder, more];
}
