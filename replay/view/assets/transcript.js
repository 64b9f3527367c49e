// The conversation of a run: turns, their rounds, what the prompt gained, replies and tool calls.
import { counted, decimal, duration, nats, whole } from "./numbers.js";
import { escapedLine } from "./escapes.js";
import { h, recorded, recordedLines } from "./dom.js";
import { isGreedy } from "./run_view.js";
import { cacheSentence, HISTORY_REASONS } from "./cache_panel.js";
import { toolCall, toolResult } from "./tool_calls.js";

const FOLDED_FROM = 1500;
const STRETCH_TURNS = 40;
const FIRST_MS = 120;
const SLICE_MS = 10;

/** Return the transcript of a run; long runs are made in slices, so that the page opens at once. */
export function runTranscript(view, chunks) {
  const element = h("div", { class: "transcript", "aria-label": "Transcript" });
  const builder = new TranscriptBuilder(view, chunks, element);
  const nothing = h("p", { class: "muted nothing" }, "No turn is recorded yet.");
  const note = () => { nothing.hidden = view.document.turns.length > 0; };
  view.onUpdate(note);
  note();
  view.buildTranscript = (turnNumber) => builder.buildTo(turnNumber);
  view.onUpdate((document) => builder.update(document));
  builder.buildFor(FIRST_MS);
  builder.buildLater();
  return h("div", null, nothing, element);
}

class TranscriptBuilder {
  constructor(view, chunks, element) {
    Object.assign(this, { view, chunks, element, made: 0 });
    this.calls = new Map();
    this.noteCalls();
  }

  noteCalls() {
    this.calls.clear();
    this.answered = new Set();
    const { turns, pending } = this.view.document;
    for (const { parts, calls } of [...turns.flatMap((turn) => turn.rounds), pending ?? { parts: [], calls: [] }]) {
      for (const call of calls) this.calls.set(call.call_id, call);
      for (const part of parts) if (part.tool_call_id) this.answered.add(part.tool_call_id);
    }
  }

  buildFor(milliseconds) {
    const { turns } = this.view.document;
    const end = performance.now() + milliseconds;
    while (this.made < turns.length && performance.now() < end) this.buildNext();
    const isWhole = this.made === turns.length;
    const pending = isWhole && !this.element.querySelector(":scope > .pending") && pendingArticle(this);
    if (pending) this.element.append(pending);
    this.element.setAttribute("aria-busy", String(!isWhole));
  }

  /** Make the next turn, in a stretch of turns: one that is far from the screen is not laid out. */
  buildNext() {
    const { turns } = this.view.document;
    let stretch = this.element.lastElementChild;
    if (!stretch || stretch.childElementCount >= STRETCH_TURNS) {
      stretch = h("div", { class: `stretch${turns.length > STRETCH_TURNS ? " lazy" : ""}` });
      this.element.append(stretch);
    }
    stretch.append(turnArticle(this, turns[this.made]));
    this.made++;
  }

  buildLater() {
    if (this.made >= this.view.document.turns.length) return;
    setTimeout(() => {
      this.buildFor(SLICE_MS);
      this.buildLater();
    });
  }

  /** Make the turns up to one of this number now: something jumps there. */
  buildTo(turnNumber) {
    const { turns } = this.view.document;
    while (this.made < turns.length && turns[this.made].turn <= turnNumber) this.buildNext();
  }

  /** Make the turns again that have grown since. */
  update(document) {
    const { first } = document.tokens;
    this.element.querySelector(":scope > .pending")?.remove();
    const old = [...this.element.querySelectorAll(".turn")];
    this.noteCalls();
    let at = document.turns.findIndex((turn) => turn.first_token >= first || turn.first_token + turn.tokens > first);
    at = Math.min(at < 0 ? document.turns.length : at, this.made);
    for (const article of old.slice(at)) article.remove();
    if (at < document.turns.length) this.chunks.dropFrom(document.turns[at].first_token);
    this.made = at;
    this.buildFor(FIRST_MS);
    this.buildLater();
  }
}

function turnArticle(builder, turn) {
  const isLast = builder.view.turns.get(turn.turn) === turn;
  const id = isLast ? `t${turn.turn}` : null;
  return h("article", { class: "turn", id, tabindex: id && "-1", "aria-label": `Turn ${turn.turn}` },
    h("header", { class: "turn-head" },
      h("h3", null, id ? h("a", { href: `#${id}` }, `Turn ${turn.turn}`) : `Turn ${turn.turn}`),
      h("p", { class: "factline" }, turnFacts(turn).map((fact) => h("span", null, fact)))),
    turn.inside_model && h("p", { class: "notice" }, "Inside the model: ", recorded(turn.inside_model)),
    turn.unreplayable.length > 0 && h("p", { class: "notice" }, "Cannot be replayed exactly: ", recorded(turn.unreplayable.join(", "))),
    turn.rounds.map((round, at) => roundRows(builder, turn, round, at)),
    row("settings", h("p", { class: "settings" }, settingsText(turn)), "settings-row"));
}

/** Return what was added to the conversation since the last turn, null if nothing was. */
function pendingArticle(builder) {
  const { parts, calls } = builder.view.document.pending ?? { parts: [], calls: [] };
  if (!parts.length && !calls.length) return null;
  return h("article", { class: "turn pending", "aria-label": "After the last turn" },
    h("header", { class: "turn-head" }, h("h3", null, "After the last turn"),
      h("p", { class: "factline" }, h("span", null, "the model has not seen this yet"))),
    partRows(builder, parts), calls.map((call) => callRow(builder, call)));
}

function turnFacts(turn) {
  const open = { "cut off": "cut off", running: "running" }[turn.status];
  return [
    open && h("b", { class: "open" }, open),
    turn.shared_with && ["shared with ", h("code", { title: escapedLine(turn.shared_with) }, recorded(turn.shared_with.slice(0, 8)))],
    counted(turn.tokens, "token"),
    turn.surprise_mean != null && `mean surprise ${decimal(turn.surprise_mean)}, entropy ${nats(turn.entropy_mean)}`,
    turn.duration_us != null && duration(turn.duration_us),
    turn.stop_reason && ["stopped: ", recorded(turn.stop_reason)],
  ].filter(Boolean);
}

function settingsText(turn) {
  const entries = Object.entries(turn.settings);
  const texts = entries.filter(([name]) => name !== "do_sample").map(([name, value]) =>
    `${name} ${typeof value === "object" ? JSON.stringify(value) : value}`);
  if (isGreedy(turn)) texts.unshift("greedy");
  if (turn.seed != null && !isGreedy(turn)) texts.push(`seed ${turn.seed}`);
  return recorded(texts.join(", "));
}

function roundRows(builder, turn, round, at) {
  const rows = [];
  if (round.pruned) rows.push(prunedRow(round.pruned));
  rows.push(partRows(builder, round.parts));
  if (round.cache) rows.push(row("", cacheLine(round), "cache-row"));
  if (round.tokens) rows.push(row("assistant", replyOf(builder, turn, round, at), "assistant"));
  rows.push(round.calls.map((call) => callRow(builder, call)));
  return rows;
}

function partRows(builder, parts) {
  return partGroups(parts).map((group) => (group.injected ? injectedRow(group.parts) : partRow(builder, group.parts[0])));
}

/** Return the row of a call; null where a message shows it with its result. */
function callRow(builder, call) {
  const isAnswered = builder.answered.has(call.call_id);
  if (isAnswered && call.caller !== "model") return null;
  return row("tool call", toolCall(builder.view, call, { withResult: !isAnswered }), "call-row");
}

function row(role, content, name = "") {
  return h("div", { class: `row ${name}` }, h("div", { class: "role" }, role), h("div", { class: "content" }, content));
}

/** Return the parts in groups: neighbours that the template injected are one. */
function partGroups(parts) {
  const groups = [];
  for (const part of parts) {
    if (!part.text && !part.tool_call_id) continue;
    const last = groups.at(-1);
    if (part.injected && last?.injected) last.parts.push(part);
    else groups.push({ injected: part.injected, parts: [part] });
  }
  return groups;
}

function injectedRow(parts) {
  return row("template", h("p", { class: "injected", title: "Text that the chat template added; no message has it" },
    parts.map((part) => recorded(part.text))), "template");
}

function partRow(builder, part) {
  const call = part.tool_call_id && builder.calls.get(part.tool_call_id);
  const content = call?.result ? [toolCall(builder.view, call, { withResult: false }), toolResult(builder.view, call, part.text)] : longText(part);
  return row(recorded(part.role), content, part.role.replace(/\W/g, ""));
}

/** Return a text of the prompt, folded if it is long; all of it is in the page. */
function longText(part) {
  const text = h("div", { class: "text" }, recordedLines(part.text));
  if (part.text.length < FOLDED_FROM) return text;
  text.classList.add("folded");
  const size = part.tokens == null ? `${whole(part.text.length)} characters` : counted(part.tokens, "token");
  const button = h("button", { type: "button", class: "quiet", "aria-expanded": "false" }, `Show all ${size}`);
  button.addEventListener("click", () => {
    const isFolded = text.classList.toggle("folded");
    button.setAttribute("aria-expanded", String(!isFolded));
    button.textContent = isFolded ? `Show all ${size}` : "Show less";
  });
  return [text, button];
}

function prunedRow(pruned) {
  return row("pruned", h("details", { class: "pruned" },
    h("summary", null, `${counted(pruned.removed_tokens, "token")} removed from the history by `, recorded(pruned.policy),
      pruned.reason && [": ", recorded(pruned.reason)]),
    pruned.removed.map((each) => h("div", { class: "removed" },
      h("p", { class: "muted" }, recorded(each.role), each.tokens != null && `, ${counted(each.tokens, "token")}`),
      h("div", { class: "text" }, recordedLines(each.text))))), "pruned-row");
}

/** Return the line that says what the cache did before a round. */
function cacheLine(round) {
  const { cache, prefill, history_reason } = round;
  const share = cache.prompt_tokens ? cache.reused_tokens / cache.prompt_tokens : 0;
  return h("p", { class: "cache-line" },
    h("span", { class: "meter", "aria-hidden": "true", style: { "--share": `${(100 * share).toFixed(2)}%` } }),
    cacheSentence(round, h("b", null, "Cache ", recorded(cache.decision), ":")),
    prefill?.duration_us != null && ` Computed in ${duration(prefill.duration_us)}.`,
    history_reason && cache.reason !== "token_divergence" && [" History: ", HISTORY_REASONS[history_reason] ?? recorded(history_reason), "."]);
}

function replyOf(builder, turn, round, at) {
  const { chunks } = builder;
  const end = round.first_token + round.tokens;
  const name = turn.rounds.length > 1 ? `Reply of turn ${turn.turn}, round ${at + 1}` : `Reply of turn ${turn.turn}`;
  return [
    h("div", { class: "reply", tabindex: "-1", role: "group", "aria-label": name }, chunks.blocks(round.first_token, end)),
    at < turn.rounds.length - 1 ? null
      : round.stop_text && h("p", { class: "muted stop" }, "stopped at ", h("code", { class: "token" }, recorded(round.stop_text))),
  ];
}
