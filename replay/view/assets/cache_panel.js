// The section "Cache": what reuse saved, and of each prompt what was reused, and why not more.

import { h, recorded } from "./dom.js";
import { byteSize, counted, duration, whole } from "./numbers.js";
import { addInParts, dataTable, livePanel, tokenBox, turnLink, unfolding } from "./panel_parts.js";

const REASONS = {
  extends: "the prompt continues the cached tokens",
  covers_prompt: "the cache held the whole prompt",
  cold: "nothing was cached yet",
  user_bypass: "the cache was switched off for this turn",
  interventions_differ: "the cached tokens were computed under other interventions",
  token_divergence: "the prompt differs from the cached tokens",
};

export const HISTORY_REASONS = {
  own_prompt: "the prompt was written without the conversation",
  after_own_prompt: "the prompt before was written without the conversation",
  after_unfinished_turn: "the turn before was not finished",
  switched_branch: "the conversation continued another branch",
  template: "the whole conversation is rendered for each prompt",
  template_rewrote_history: "the chat template wrote the past in another way",
};

const REASON_PREFIXES = {
  key_changed: "the model has changed since the tokens were cached",
  crop_failed: "the cache could not be cut",
  not_croppable: "the cache of this model cannot be cut back to the tokens in common",
};

/** The reason of a decision as part of a sentence; an unknown one is shown as it was recorded. */
function reasonParts(cache) {
  const reason = cache.reason;
  if (REASONS[reason]) return [REASONS[reason]];
  const [prefix, ...rest] = reason.split(":");
  const known = REASON_PREFIXES[prefix];
  if (!known) return [h("span", { class: "recorded" }, recorded(reason))];
  const detail = rest.join(":").trim() || cache.key_field;
  return detail ? [known, " (", h("span", { class: "recorded" }, recorded(detail)), ")"] : [known];
}

/** Where cache and prompt differ: " at token 1,204: the cache has …, the prompt …". */
function divergenceParts(cache) {
  if (cache.divergence_index === null) return [];
  const index = whole(cache.divergence_index);
  if (cache.reason === "interventions_differ") return [` from token ${index} on`];
  // Where a redactor removed the ids, both are the same.
  const isNamed = (cache.old_token || cache.new_token) && cache.old_token?.id !== cache.new_token?.id;
  if (!isNamed) return [` at token ${index}`];
  return [
    ` at token ${index}: the cache has `,
    tokenBox(cache.old_token, "old"),
    ", the prompt ",
    tokenBox(cache.new_token, "new"),
    cache.divergence_text ? [", in the text ", h("code", { class: "token" }, recorded(cache.divergence_text))] : null,
  ];
}

/** Why a prompt is not the continuation of what the model had read, where the history says it. */
function historyParts(round) {
  if (round.cache.reason !== "token_divergence") return [];
  if (round.pruned) {
    const removed = counted(round.pruned.removed_tokens, "token");
    return [`${removed} of the conversation had been removed to fit the context, so `];
  }
  const reason = round.history_reason;
  if (HISTORY_REASONS[reason]) return [HISTORY_REASONS[reason], ", so "];
  if (reason) return ["the conversation was rendered again (", recorded(reason), "), so "];
  return [];
}

function whyComputed(round) {
  return [...historyParts(round), ...reasonParts(round.cache), ...divergenceParts(round.cache)];
}

function restSentence(round) {
  const { cache } = round;
  const isOne = cache.computed_tokens === 1;
  if (cache.reason === "extends") {
    return [isOne ? "the other one is new" : `the other ${whole(cache.computed_tokens)} are new`];
  }
  if (cache.reason === "covers_prompt") {
    return ["the last one was computed again: its logits choose the first new token"];
  }
  return ["the rest was computed because ", ...whyComputed(round)];
}

/**
 * Return the parts of a sentence about the prompt of a round, such as "Turn 7 reused 1,204 of 1,350
 * prompt tokens; the rest was computed because …". `subject`: "Turn 7", or parts that say it.
 */
export function cacheSentence(round, subject) {
  const { cache } = round;
  const prompt = counted(cache.prompt_tokens, "prompt token");
  const parts = [subject].flat();
  if (cache.reused_tokens === 0) {
    parts.push(` computed all ${prompt}: `, ...whyComputed(round));
  } else {
    const source = cache.source === "disk" ? " from disk" : "";
    parts.push(` reused ${whole(cache.reused_tokens)} of ${prompt}${source}; `, ...restSentence(round));
  }
  parts.push(".");
  if (cache.cropped_tokens > 0) {
    parts.push(` ${counted(cache.cropped_tokens, "cached token")} no longer fitted and were cut off.`);
  }
  return parts;
}

/** Each prompt of the run: a turn with tool calls has one a round. */
function cacheRows(document) {
  const rows = [];
  for (const turn of document.turns) {
    // Those of the run that this one was forked from: nothing of them was computed here.
    if (turn.shared_with) continue;
    turn.rounds.forEach((round, index) => {
      if (round.cache) rows.push({ turn, round, index, cache: round.cache });
    });
  }
  return rows;
}

function subjectOf(view, row, { linked = true } = {}) {
  const name = `Turn ${row.turn.turn}`;
  const link = linked ? turnLink(view, row.turn.turn, name) : name;
  return row.index === 0 ? [link] : [link, `, round ${row.index + 1}`];
}

function totals(view) {
  const { cache } = view.document;
  const computed = whole(cache.prompt_tokens_computed);
  const without = whole(cache.prompt_tokens_without_reuse);
  const times = cache.times_fewer ? cache.times_fewer.toFixed(1) : null;
  const saved = cache.prompt_tokens_without_reuse > cache.prompt_tokens_computed;
  return h(
    "p",
    { class: "lead" },
    h("strong", {}, `${computed} of ${without} prompt tokens computed`),
    saved && times ? `: ${times} times fewer than without the cache.` : ": the cache saved none.",
  );
}

function largest(rows, name) {
  const values = rows.map((row) => row.round[name]).filter((value) => value > 0);
  return values.length ? Math.max(...values) : null;
}

/** What the run cost with the cache and what it would have cost without. */
function costTable(view, rows) {
  const { cache } = view.document;
  const bytes = largest(rows, "kv_bytes");
  const lines = [
    {
      what: "Prompt tokens computed",
      with: whole(cache.prompt_tokens_computed),
      without: whole(cache.prompt_tokens_without_reuse),
    },
  ];
  if (cache.prefill_us) {
    const without = cache.prefill_us_without_reuse;
    lines.push({
      what: "Time to read prompts",
      with: duration(cache.prefill_us),
      without: without ? `about ${duration(without)}` : "not known",
    });
  }
  if (bytes) {
    const without = largest(rows, "kv_bytes_without") ?? bytes;
    lines.push(
      { what: "Keys and values in memory, during a turn", with: byteSize(bytes), without: byteSize(without) },
      { what: "Keys and values in memory, between turns", with: `up to ${byteSize(bytes)}`, without: "none" },
    );
  }
  const columns = [
    { name: "what", title: "Cost" },
    { name: "with", title: "with the cache", number: true },
    { name: "without", title: "without", number: true },
  ];
  const notes = cache.estimates.map((text) => h("li", {}, recorded(text)));
  return [
    dataTable(null, columns, lines, "small"),
    notes.length ? unfolding("How the costs without the cache were estimated", () => h("ul", {}, ...notes)) : null,
  ];
}

/** The two parts of a prompt as a bar, on the scale of the longest prompt. */
function cacheBar(cache, longest) {
  const reused = h("span", { class: "bar-reused" });
  const computed = h("span", { class: "bar-computed" });
  reused.style.width = `${(100 * cache.reused_tokens) / longest}%`;
  computed.style.width = `${(100 * cache.computed_tokens) / longest}%`;
  return h("span", { class: "cache-bar", "aria-hidden": "true" }, reused, computed);
}

function promptTable(view, rows) {
  const longest = Math.max(...rows.map((row) => row.cache.prompt_tokens), 1);
  const timed = rows.some((row) => row.round.prefill);
  const sized = rows.some((row) => row.round.kv_bytes);
  const columns = [
    { name: "turn", title: "Prompt of" },
    { name: "bar", title: "Reused and computed", wide: true },
    { name: "reused", title: "Reused", number: true },
    { name: "computed", title: "Computed", number: true },
    { name: "decision", title: "Decision" },
    ...(timed ? [{ name: "time", title: "Time", number: true }] : []),
    ...(sized ? [{ name: "bytes", title: "Keys and values", number: true }] : []),
  ];
  const cells = rows.map((row) => ({
    turn: subjectOf(view, row),
    bar: cacheBar(row.cache, longest),
    reused: whole(row.cache.reused_tokens),
    computed: whole(row.cache.computed_tokens),
    decision: row.cache.decision,
    time: row.round.prefill ? duration(row.round.prefill.duration_us) : "–",
    bytes: row.round.kv_bytes ? byteSize(row.round.kv_bytes) : "–",
  }));
  const legend = h(
    "p",
    { class: "legend" },
    h("span", { class: "key bar-reused", "aria-hidden": "true" }),
    " reused from the cache ",
    h("span", { class: "key bar-computed", "aria-hidden": "true" }),
    " computed. A bar is as long as the prompt.",
  );
  return [h("h3", {}, "Every prompt"), legend, dataTable(null, columns, cells, "cards prompts")];
}

/** The prompts of which the cache did not hold all that came before. */
function notable(view, rows) {
  const found = rows.filter((row) => !["extends", "covers_prompt"].includes(row.cache.reason));
  if (!found.length) {
    return h("p", {}, "Every prompt continued the cached tokens, so only its new tokens were computed.");
  }
  const list = h("ul", { class: "sentences" });
  const add = (row) => list.append(h("li", {}, ...cacheSentence(row.round, subjectOf(view, row))));
  const others = rows.length - found.length;
  return [
    h("h3", {}, "Where the cache could not be used, or not whole"),
    addInParts(list, found, add, "prompts"),
    others ? h("p", {}, others === 1 ? "The one other prompt continued the cached tokens." : `The ${whole(others)} other prompts continued the cached tokens.`) : null,
  ];
}

/** Return the panel of the cache. */
export function cachePanel(view) {
  const signature = () => [cacheRows(view.document).length, view.document.cache.prompt_tokens_computed];
  return livePanel(view, signature, () => cacheParts(view));
}

function cacheParts(view) {
  const rows = cacheRows(view.document);
  if (!rows.length) return h("p", {}, "This run has computed no prompt yet.");
  const system = view.document.cache.system_tokens;
  const explained = h(
    "p",
    {},
    "Each prompt repeats the conversation so far. The model keeps what it computed for these tokens in its cache, and computes only tokens that are new or that follow a difference.",
    system ? ` The system prompt of ${counted(system, "token")} was computed once, before turn 1.` : "",
  );
  return [totals(view), explained, costTable(view, rows), notable(view, rows), promptTable(view, rows)];
}
