// A diff as its page works with it: both runs' tokens, and the differences to go to in order.

import { columnsOf } from "./packed.js";

const NEAR_WINDOW = "800px 0px";

/** The turns in groups of successive ones that are the same, or that are not. */
export function sameTurns(turns) {
  const groups = [];
  for (const turn of turns) {
    const last = groups.at(-1);
    if (last && last[0].same === turn.same) last.push(turn);
    else groups.push([turn]);
  }
  return groups;
}

/** Indices into the alignment of a turn at which its replies differ. */
export function replyDifferences(turn) {
  const found = [];
  (turn.alignment ?? []).forEach(([kind], index) => {
    if (kind !== "equal") found.push(index);
  });
  return found;
}

/**
 * The document of a diff with the tokens of both runs.
 *
 * `targets`: what `go` goes to, in order: of each turn that differs its heading, or the places in
 * its reply if that differs, each with the `turn` and the index `operation` in its alignment.
 */
export class DiffView {
  constructor(document) {
    this.document = document;
    this.columns = { a: columnsOf(document.tokens_a), b: columnsOf(document.tokens_b) };
    const { ids, texts } = document.vocabulary;
    this.texts = new Map(ids.map((id, index) => [id, texts[index]]));
    this.targets = [];
    for (const turn of document.turns) {
      if (turn.same) continue;
      const operations = replyDifferences(turn);
      if (!operations.length) this.targets.push({ turn: turn.turn, operation: null });
      for (const operation of operations) this.targets.push({ turn: turn.turn, operation });
    }
    this.current = -1;
    this.makers = new Map();
    this.openers = new Map();
  }

  /** Return the token of a reply: `{id, text, logprob, forced}`. */
  token(side, turn, index) {
    const columns = this.columns[side];
    const at = turn[side].first_token + index;
    const id = columns.token_id[at];
    return { id, text: this.texts.get(id) ?? "", logprob: columns.logprob[at], forced: Boolean(columns.forced?.[at]) };
  }

  /** Return the texts of tokens of a reply. */
  textsOf(side, turn, start, end) {
    const { token_id } = this.columns[side];
    const first = turn[side].first_token;
    const found = [];
    for (let index = first + start; index < first + end; index++) {
      found.push(this.texts.get(token_id[index]) ?? `<id ${token_id[index]}>`);
    }
    return found;
  }

  /** Return the index of the target of a turn without differences in its reply, else null. */
  firstTargetOf(turn) {
    const index = this.targets.findIndex((each) => each.turn === turn.turn);
    return index >= 0 && this.targets[index].operation === null ? index : null;
  }

  /** Call `make` once, when a section comes near the window or `go` goes there. */
  makeLater(section, turn, make) {
    const once = () => {
      if (!this.makers.delete(turn.turn)) return;
      watch.disconnect();
      make();
    };
    const watch = new IntersectionObserver(
      (entries) => entries.some((each) => each.isIntersecting) && once(),
      { rootMargin: NEAR_WINDOW },
    );
    this.makers.set(turn.turn, once);
    watch.observe(section);
  }

  /** Have `open(operation)` show the rows of a turn up to an operation of its alignment. */
  onOpen(turn, open) {
    this.openers.set(turn.turn, open);
  }

  /** Go `by` differences on; return the index of that one, null where there is none. */
  go(by) {
    const index = Math.max(0, Math.min(this.targets.length - 1, this.current + by));
    const target = this.targets[index];
    if (!target) return null;
    this.current = index;
    this.makers.get(target.turn)?.();
    if (target.operation !== null) this.openers.get(target.turn)?.(target.operation);
    for (const each of document.querySelectorAll(".current-difference")) each.classList.remove("current-difference");
    const both = document.querySelectorAll(`[data-difference="${index}"], [data-counterpart="${index}"]`);
    for (const each of both) each.classList.add("current-difference");
    const element = document.querySelector(`[data-difference="${index}"]`);
    element?.scrollIntoView({ block: "center" });
    element?.focus({ preventScroll: true });
    return index;
  }
}
