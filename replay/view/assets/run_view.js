// A recorded run as the page works with it: its document, its tokens as typed arrays, what is selected.
import { columnsOf, joinedColumn } from "./packed.js";

// What a row of the top k has in the places after its candidates: an id below zero.
const NO_CANDIDATE = -1;
// The columns that have the top k in each row; the others have one number.
const TOP_COLUMNS = new Set(["top_ids", "top_logprobs", "top_processed", "top_removed"]);
const BYTE_SPELLED = /<0x([0-9A-Fa-f]{2})>/g;

/**
 * The document of a run with its tokens as typed arrays.
 *
 * `document`: the document. `tokens`: typed arrays by column name, and `count`, `top`. `selected`:
 * the index of the selected token, or null. `metric`: the name of the measure of the colours.
 */
export class RunView {
  constructor(document) {
    this.selected = null;
    this.hovered = null;
    this.metric = "surprise";
    this.listeners = { select: [], hover: [], metric: [], update: [] };
    this.take(document, columnsOf(document.tokens));
  }

  /** Replace the document by one of the same run whose tokens begin at `tokens.first`. */
  update(document) {
    const columns = columnsOf(document.tokens);
    const { first, top } = document.tokens;
    for (const [name, column] of Object.entries(columns)) {
      const isWide = TOP_COLUMNS.has(name);
      const old = isWide ? widened(this.tokens[name], this.tokens, top) : this.tokens[name];
      columns[name] = joinedColumn(old.subarray(0, first * (isWide ? top : 1)), column);
    }
    this.take(document, columns);
    this.tell("update", document);
  }

  take(document, columns) {
    this.document = document;
    const count = columns.token_id.length;
    this.tokens = { ...columns, count, top: document.tokens.top };
    const { ids, texts } = document.vocabulary;
    this.texts = new Map(ids.map((id, index) => [id, texts[index]]));
    // A turn that was cut off and begun again is there twice: its number means the last one.
    this.turns = new Map(document.turns.map((turn) => [turn.turn, turn]));
  }

  /** Return the text of a token id, with bytes spelled as `<0xE1>`; null if it is not recorded. */
  text(id) {
    return this.texts.get(id) ?? null;
  }

  /** Return the bytes of a token id, null if its text is not recorded. */
  bytes(id) {
    const text = this.text(id);
    if (text === null) return null;
    const encoder = new TextEncoder();
    const bytes = [];
    let end = 0;
    for (const match of text.matchAll(BYTE_SPELLED)) {
      bytes.push(...encoder.encode(text.slice(end, match.index)), parseInt(match[1], 16));
      end = match.index + match[0].length;
    }
    bytes.push(...encoder.encode(text.slice(end)));
    return Uint8Array.from(bytes);
  }

  /**
   * Return the recorded candidates of a token, likeliest first: `{id, logprob, processed, removed}`.
   * `processed` is NaN and `removed` names the processor where one removed the candidate.
   */
  top(index) {
    const { top_ids, top_logprobs, top_processed, top_removed, top } = this.tokens;
    const candidates = [];
    for (let at = index * top; at < (index + 1) * top; at++) {
      if (top_ids[at] < 0) continue;
      // The number of the recorded token is exact, those of the candidates have half precision.
      const isRecorded = top_ids[at] === this.tokens.token_id[index];
      candidates.push({
        id: top_ids[at],
        logprob: isRecorded ? this.tokens.logprob[index] : top_logprobs[at],
        processed: isRecorded ? this.processed(index) : top_processed[at],
        removed: this.document.tokens.removers[top_removed[at]] ?? "",
      });
    }
    return candidates;
  }

  /**
   * Return the log-probability after the processors, NaN if it is not known: those of a forced
   * token did not act, and its record repeats the raw one.
   */
  processed(index) {
    return this.tokens.forced[index] ? NaN : this.tokens.logprob_processed[index];
  }

  /** Return the round that a token is in. */
  roundOf(index) {
    return this.turnOf(index).rounds.findLast((round) => round.first_token <= index);
  }

  /** Return the turn, an object of the document, that a token is in. */
  turnOf(index) {
    const { turns } = this.document;
    let [low, high] = [0, turns.length - 1];
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (turns[middle].first_token <= index) low = middle;
      else high = middle - 1;
    }
    return turns[low];
  }

  /** Return the index of a token by turn and step, null if there is none. */
  indexOf(turnNumber, stepNumber) {
    const turn = this.turns.get(turnNumber);
    if (!turn) return null;
    const { step } = this.tokens;
    for (let index = turn.first_token; index < turn.first_token + turn.tokens; index++) {
      if (step[index] === stepNumber) return index;
    }
    return null;
  }

  /** Return the anchor of a token: `#t7.s31`. */
  hashOf(index) {
    return `#t${this.tokens.turn[index]}.s${this.tokens.step[index]}`;
  }

  /** Return the token and turn of an anchor, `{index, turn}`, null if it names none. */
  placeOf(hash) {
    const match = /^#t(\d+)(?:\.s(\d+))?$/.exec(hash);
    if (!match || !this.turns.has(Number(match[1]))) return null;
    const turn = Number(match[1]);
    return { turn, index: match[2] === undefined ? null : this.indexOf(turn, Number(match[2])) };
  }

  /** Select a token, or none with null. `jump`: the page scrolls to it and the history gets an entry. */
  select(index, { jump = true } = {}) {
    if (index !== null && !(index >= 0 && index < this.tokens.count)) return;
    this.selected = index;
    this.tell("select", index, jump);
  }

  /** Call `listener(index, jump)` when a token is selected. */
  onSelect(listener) {
    this.listeners.select.push(listener);
  }

  /** Show a token for as long as the pointer is over it; null ends that. */
  hover(index) {
    if (index === this.hovered) return;
    this.hovered = index;
    this.tell("hover", index);
  }

  onHover(listener) {
    this.listeners.hover.push(listener);
  }

  /** Choose the measure of the colours: "surprise", "entropy", "top_gap" or "time". */
  setMetric(name) {
    this.metric = name;
    this.tell("metric", name);
  }

  onMetric(listener) {
    this.listeners.metric.push(listener);
  }

  /** Call `listener(document)` when the run has grown. */
  onUpdate(listener) {
    this.listeners.update.push(listener);
  }

  tell(what, ...values) {
    for (const listener of this.listeners[what]) listener(...values);
  }
}

/** Return whether a turn took the likeliest token at each step. */
export function isGreedy(turn) {
  return !("do_sample" in turn.settings || "temperature" in turn.settings);
}

/** Return a column of rows of the top k with rows of another width. */
function widened(column, { top: width, count }, newWidth) {
  if (width === newWidth) return column;
  const wide = new column.constructor(count * newWidth).fill(NO_CANDIDATE);
  for (let row = 0; row < count; row++) {
    const kept = Math.min(width, newWidth);
    wide.set(column.subarray(row * width, row * width + kept), row * newWidth);
  }
  return wide;
}
