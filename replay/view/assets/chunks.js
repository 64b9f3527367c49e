// The text of many tokens: plain text in blocks, of which those near the screen become spans.
import { fragmentOf, TextEscaper } from "./escapes.js";
import { levelsOf } from "./colors.js";

const SPELLED_BYTE = /<0x([0-9A-Fa-f]{2})>/;
const CHUNK_TOKENS = 120;
const CHUNK_TOKENS_MAX = 480;
// Of a frame of 16 ms, for spans: a page that scrolls fast shows plain text for a moment.
const FRAME_MS = 5;
const FAST_PX = 350;

/**
 * Return the visible pieces of each of the tokens from `first` to before `end`.
 *
 * A character of several tokens is shown whole at its first one; bytes that are no character are
 * escape sequences.
 */
function tokenPieces(view, first, end) {
  const escaper = new TextEscaper(true);
  const shown = [];
  let waiting = [];
  const flush = () => {
    for (const { index, byte } of waiting) {
      shown[index].push([true, `\\x${byte.toString(16).padStart(2, "0")}`]);
    }
    waiting = [];
  };
  const addText = (index, text) => {
    if (waiting.length) flush();
    shown[index].push(...escaper.add(text));
  };
  const addByte = (index, byte) => {
    if (waiting.length && (byte & 0xc0) !== 0x80) flush();
    if (byte < 0x80) {
      addText(index, String.fromCharCode(byte));
      return;
    }
    waiting.push({ index, byte });
    if (waiting.length < characterLength(waiting[0].byte)) return;
    try {
      const bytes = Uint8Array.from(waiting, (each) => each.byte);
      const character = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
      shown[waiting[0].index].push(...escaper.add(character));
      waiting = [];
    } catch {
      flush();
    }
  };
  for (let token = first; token < end; token++) {
    const index = token - first;
    shown.push([]);
    const id = view.tokens.token_id[token];
    const text = view.text(id);
    if (text === null) {
      if (waiting.length) flush();
      shown[index].push([true, id < 0 ? "▯" : `⟨${id}⟩`]);
    } else if (!SPELLED_BYTE.test(text)) {
      addText(index, text);
    } else {
      // Odd parts are the digits of the bytes.
      text.split(SPELLED_BYTE).forEach((part, at) => {
        if (at % 2) addByte(index, parseInt(part, 16));
        else if (part) addText(index, part);
      });
    }
  }
  flush();
  return shown;
}

function characterLength(lead) {
  if (lead >= 0xc2 && lead < 0xe0) return 2;
  if (lead >= 0xe0 && lead < 0xf0) return 3;
  return lead >= 0xf0 && lead < 0xf5 ? 4 : 1;
}

/** The blocks of tokens of a page: which are spans, and which tokens are on the screen. */
export class TokenChunks {
  constructor(view) {
    this.view = view;
    this.byElement = new WeakMap();
    this.near = new Set();
    this.chunks = [];
    /** Called when other blocks are near the screen. */
    this.onSeen = () => {};
    this.wanted = new Set();
    this.left = new Set();
    this.isWorking = false;
    this.observer = new IntersectionObserver((entries) => this.note(entries), { rootMargin: "800px 0px" });
    view.onMetric(() => this.recolor());
  }

  /** Note which blocks came near the screen and which left it. */
  note(entries) {
    for (const { target, isIntersecting } of entries) {
      const chunk = this.byElement.get(target);
      if (isIntersecting) {
        this.near.add(chunk);
        this.left.delete(chunk);
        if (!chunk.hasSpans) this.wanted.add(chunk);
      } else if (this.near.delete(chunk)) {
        this.wanted.delete(chunk);
        if (chunk.hasSpans) this.left.add(chunk);
      }
    }
    this.onSeen();
    if (this.isWorking || !(this.wanted.size || this.left.size)) return;
    this.isWorking = true;
    // The first time at once, so that the page opens with colours.
    if (this.hasWorked) requestAnimationFrame(() => this.work());
    else this.work();
  }

  /** Make spans of blocks near the screen, then text of blocks that left it, a few a frame. */
  work() {
    this.hasWorked = true;
    const moved = Math.abs(window.scrollY - (this.scrolledTo ?? window.scrollY));
    this.scrolledTo = window.scrollY;
    if (moved > FAST_PX) {
      // What passes too fast to be read stays text.
      requestAnimationFrame(() => this.work());
      return;
    }
    const end = performance.now() + FRAME_MS;
    const middle = window.innerHeight / 2;
    const far = (chunk) => Math.abs(chunk.element.getBoundingClientRect().top - middle);
    const wanted = [...this.wanted].map((chunk) => [far(chunk), chunk]).sort((a, b) => a[0] - b[0]);
    for (const [, chunk] of wanted) {
      this.wanted.delete(chunk);
      this.toSpans(chunk);
      if (performance.now() > end) break;
    }
    if (!this.wanted.size) {
      for (const chunk of this.left) {
        if (performance.now() > end) break;
        this.left.delete(chunk);
        this.toText(chunk);
      }
    }
    this.isWorking = this.wanted.size + this.left.size > 0;
    if (this.isWorking) requestAnimationFrame(() => this.work());
  }

  /** Return the blocks of the tokens from `first` to before `end`. */
  blocks(first, end) {
    const blocks = [];
    for (let start = first; start < end;) {
      const stop = this.chunkEnd(start, end);
      const element = document.createElement("div");
      element.className = "chunk";
      const chunk = { element, first: start, end: stop, hasSpans: false };
      this.byElement.set(element, chunk);
      this.chunks.push(chunk);
      this.toText(chunk);
      if (stop - start < end - first) this.reserveHeight(chunk);
      this.observer.observe(element);
      blocks.push(element);
      start = stop;
    }
    return blocks;
  }

  /** Return where a block ends: after a line end, if there is one in time. */
  chunkEnd(start, end) {
    const { token_id } = this.view.tokens;
    if (end - start <= CHUNK_TOKENS) return end;
    const most = Math.min(end, start + CHUNK_TOKENS_MAX);
    for (let token = start + CHUNK_TOKENS; token < most; token++) {
      if (this.view.text(token_id[token])?.endsWith("\n")) return token + 1;
    }
    return most;
  }

  /** Return the span of a token, made if need be; null if its turn is not on the page. */
  spanOf(token) {
    const chunk = this.chunkOf(token);
    if (!chunk) return null;
    this.near.add(chunk);
    this.toSpans(chunk);
    return chunk.element.children[token - chunk.first];
  }

  chunkOf(token) {
    let [low, high] = [0, this.chunks.length - 1];
    while (low <= high) {
      const middle = (low + high) >> 1;
      const chunk = this.chunks[middle];
      if (token < chunk.first) high = middle - 1;
      else if (token >= chunk.end) low = middle + 1;
      else return chunk;
    }
    return null;
  }

  /** Return the tokens on the screen between two heights, `[first, end]`, null if there are none. */
  visible(top, bottom) {
    let [first, end] = [Infinity, -Infinity];
    for (const chunk of this.near) {
      const box = chunk.element.getBoundingClientRect();
      if (box.bottom <= top || box.top >= bottom || !box.height) continue;
      const count = chunk.end - chunk.first;
      const at = (y) => chunk.first + Math.round(count * Math.min(1, Math.max(0, (y - box.top) / box.height)));
      first = Math.min(first, at(top));
      end = Math.max(end, at(bottom));
    }
    return first < end ? [first, end] : null;
  }

  /** Forget the blocks from a token on: they are made again when a run grows. */
  dropFrom(token) {
    const kept = this.chunks.filter((chunk) => chunk.end <= token);
    for (const chunk of this.chunks.slice(kept.length)) {
      this.observer.unobserve(chunk.element);
      for (const set of [this.near, this.wanted, this.left]) set.delete(chunk);
    }
    this.chunks = kept;
  }

  recolor() {
    for (const chunk of this.near) if (chunk.hasSpans) this.color(chunk);
  }

  toText(chunk) {
    if (chunk.hasSpans && holdsSelection(chunk.element)) return;
    const pieces = tokenPieces(this.view, chunk.first, chunk.end);
    const joined = [];
    for (const piece of pieces.flat()) {
      const last = joined.at(-1);
      if (last && last[0] === piece[0]) last[1] += piece[1];
      else joined.push([...piece]);
    }
    chunk.characters = joined.reduce((sum, [, text]) => sum + text.length, 0);
    chunk.lineEnds = joined.reduce((sum, [, text]) => sum + text.split("\n").length - 1, 0);
    chunk.element.replaceChildren(fragmentOf(joined));
    chunk.hasSpans = false;
  }

  toSpans(chunk) {
    if (chunk.hasSpans) return;
    const pieces = tokenPieces(this.view, chunk.first, chunk.end);
    const fragment = document.createDocumentFragment();
    for (let at = 0; at < pieces.length; at++) {
      const span = document.createElement("span");
      const [indent, token] = withoutIndent(pieces[at]);
      // At the end of a line a space would be a sliver of colour.
      if (indent) fragment.append(indent);
      if (token.length === 1 && !token[0][0]) span.textContent = token[0][1];
      else span.append(fragmentOf(token));
      span.dataset.token = chunk.first + at;
      fragment.append(span);
    }
    chunk.element.replaceChildren(fragment);
    chunk.hasSpans = true;
    this.color(chunk);
  }

  color(chunk) {
    const { levels } = levelsOf(this.view);
    const { forced } = this.view.tokens;
    const left = this.view.divergedTokens;
    let token = chunk.first;
    for (const span of chunk.element.children) {
      let name = `t m${levels[token]}`;
      const text = span.textContent;
      if (text === "") name += " bare";
      else if (text.charCodeAt(0) === 10) name += " nl";
      if (forced[token]) name += " forced";
      if (left?.has(token)) name += " left";
      if (token === this.view.selected) name += " selected";
      span.className = name;
      token++;
    }
  }

  /** Let a block of a long reply be laid out when it is near; a short reply is, with its turn. */
  reserveHeight(chunk) {
    chunk.element.classList.add("lazy");
    const lines = chunk.lineEnds / 2 + chunk.characters / this.charactersALine() + 0.5;
    chunk.element.style.setProperty("contain-intrinsic-block-size", `auto ${(lines * 1.75).toFixed(2)}rem`);
  }

  charactersALine() {
    this.columns ??= Math.max(30, Math.min(92, (window.innerWidth - (window.innerWidth > 1000 ? 540 : 40)) / 7.4));
    return this.columns;
  }
}

/** Return the spaces that a token begins with, and its pieces after them; spaces alone stay in it. */
function withoutIndent(pieces) {
  const [first, ...rest] = pieces;
  const text = !first || first[0] ? "" : first[1];
  const word = text.trimStart();
  const spaces = text.length - word.length;
  if (!word || /[^ ]/.test(text.slice(0, spaces))) return ["", pieces];
  return [text.slice(0, spaces), [[false, word], ...rest]];
}

function holdsSelection(element) {
  const selection = getSelection();
  return !selection.isCollapsed && selection.containsNode(element, true);
}
