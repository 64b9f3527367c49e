// The head of a run's page: what run this is, and the answers that most people look for.
import { counted, decimal, duration, instant, nats, whole } from "./numbers.js";
import { escapedLine } from "./escapes.js";
import { copyButton, h, recorded } from "./dom.js";
import { themeSwitch } from "./theme.js";
import { tokenCode } from "./token_code.js";
import { verdictBadge } from "./verdicts_panel.js";

// More turns than these are counted in the line of verdicts, not named.
const TURNS_NAMED = 6;

/** Return the head of a run's page. */
export function runHeader(view, { help = null } = {}) {
  const { run, interventions, turns } = view.document;
  return h("header", { class: "head" },
    h("div", { class: "headline" },
      h("h1", null, recorded(run.name || run.run_id)),
      h("div", { class: "tools" }, view.document.served && h("a", { href: "/" }, "All runs"), themeSwitch(),
        help && h("button", { type: "button", class: "quiet", onclick: help }, "Keys"))),
    h("p", { class: "factline" }, headFacts(view).map((fact) => h("span", null, fact))),
    (run.parent || run.tags.length > 0 || run.note) && h("p", { class: "labels" }, headLabels(view)),
    run.error && h("p", { class: "notice bad" }, h("b", null, "The run failed: "), recorded(run.error)),
    run.redacted && h("p", { class: "notice" }, "This recording is redacted: its texts and token ids are left out."),
    interventions.length > 0 && interventionNotice(interventions),
    (view.document.problems ?? []).map((problem) => h("p", { class: "notice" }, recorded(problem))),
    verdictLine(view.document),
    turns.length > 0 && h("dl", { class: "answers" }, headAnswers(view)),
    moreFacts(view));
}

function headFacts(view) {
  const { run, turns } = view.document;
  const count = new Set(turns.map((turn) => turn.turn)).size;
  return [
    h("b", { class: `status ${run.status === "finished" ? "" : "open"}` }, recorded(run.status)),
    recorded(run.model), `${counted(count, "turn")}, ${counted(view.tokens.count, "token")}`,
    run.dtype && recorded(run.dtype), run.device && recorded(run.device),
    run.duration_us != null && duration(run.duration_us),
    run.started_at_us != null && instant(run.started_at_us),
  ].filter(Boolean);
}

function headLabels(view) {
  const { run, served } = view.document;
  return [
    run.parent && h("span", null, "Forked from ", parentLink(run.parent, served), parentPlace(run.parent)),
    run.tags.map((tag) => h("span", { class: "chip" }, recorded(tag))),
    run.note && h("span", { class: "note" }, recorded(run.note)),
  ];
}

function parentLink(parent, served) {
  const name = h("code", { title: escapedLine(parent.run_id) }, recorded(parent.run_id.slice(0, 8)));
  return served && /^[\w-]+$/.test(parent.run_id) ? h("a", { href: `/run/${parent.run_id}` }, name) : name;
}

function parentPlace(parent) {
  return parent.token == null ? ` before turn ${parent.turn}` : ` at turn ${parent.turn}, token ${parent.token}`;
}

function interventionNotice(interventions) {
  const names = interventions.map((each) => {
    const turns = [...new Set([...each.spans, ...each.prompt_spans].map((span) => span.turn))];
    const where = turns.length ? `, ${turnsText(turns.sort((a, b) => a - b))}` : "";
    return h("li", null, h("b", null, recorded(each.name)), ` (${escapedLine(each.kind)})`, where);
  });
  return h("div", { class: "notice" },
    h("p", null, "Something acted inside the model during this run:"),
    h("ul", null, names), h("p", null, h("a", { href: "#inside" }, "See where")));
}

/** Return turn numbers in ascending order as text: `turns 2–4, 9`. */
function turnsText(turns) {
  const ranges = [];
  for (const turn of turns) {
    const last = ranges.at(-1);
    if (last && last[1] === turn - 1) last[1] = turn;
    else ranges.push([turn, turn]);
  }
  const texts = ranges.map(([first, end]) => (first === end ? `${first}` : `${first}–${end}`));
  return `${turns.length === 1 ? "turn" : "turns"} ${texts.join(", ")}`;
}

function verdictLine({ verdicts, turns }) {
  if (!verdicts.length) {
    return h("p", { class: "verdict-line muted" }, "No replay has checked this recording yet. ",
      h("a", { href: "#replays" }, "How to check it"));
  }
  const all = new Set(turns.filter((turn) => turn.tokens).map((turn) => turn.turn));
  return h("p", { class: "verdict-line" }, newestVerdicts(verdicts).map((each) =>
    h("a", { class: "plain", href: "#replays" },
      recorded(each.replay || "replay"), checkedTurns(each, all), ": ", verdictBadge(each.verdict),
      each.label && [" ", recorded(each.label)])));
}

/**
 * Return the verdicts that no newer one of the same replay replaces, in their order; the same
 * verdict of several reports is there once, with all their turns.
 */
function newestVerdicts(verdicts) {
  const kept = new Map();
  const checked = new Map();
  for (const each of verdicts.toReversed()) {
    const key = `${each.replay} ${each.label}`;
    const turns = checked.get(key);
    if (turns && each.turns.every(({ turn }) => turns.has(turn))) continue;
    checked.set(key, new Set([...(turns ?? []), ...each.turns.map(({ turn }) => turn)]));
    const same = `${key} ${each.verdict}`;
    const newer = kept.get(same)?.turns ?? [];
    kept.set(same, { ...each, turns: [...newer, ...each.turns] });
  }
  return [...kept.values()].reverse();
}

/** Return which turns a replay checked as text, "" for all turns of the run. */
function checkedTurns(report, all) {
  const turns = [...new Set(report.turns.map(({ turn }) => turn))].filter((turn) => turn != null).sort((a, b) => a - b);
  if (!turns.length || [...all].every((turn) => turns.includes(turn))) return "";
  return turns.length > TURNS_NAMED ? ` of ${turns.length} of ${counted(all.size, "turn")}` : ` of ${turnsText(turns)}`;
}

function headAnswers(view) {
  const { cache, highlights } = view.document;
  const answers = [];
  const add = (term, value, note) =>
    value && answers.push(h("div", null, h("dt", null, term), h("dd", null, value), note && h("dd", { class: "muted" }, note)));
  if (highlights.least_sure_turn != null) {
    const turn = view.turns.get(highlights.least_sure_turn);
    add("Least sure turn", h("a", { href: `#t${highlights.least_sure_turn}` }, `turn ${highlights.least_sure_turn}`),
      turn?.entropy_mean != null && `mean entropy ${nats(turn.entropy_mean)}`);
  }
  add("Least sure token", namedTokenLink(view, highlights.least_sure_token),
    highlights.least_sure_token != null && `entropy ${nats(view.tokens.entropy[highlights.least_sure_token])}`);
  add("Most surprising token", namedTokenLink(view, highlights.most_surprising_token),
    highlights.most_surprising_token != null && `surprise ${nats(-view.tokens.logprob[highlights.most_surprising_token])}`);
  if (cache.prompt_tokens_without_reuse) {
    add("Saved by the cache", h("a", { href: "#cache" }, savingText(cache)),
      `${whole(cache.prompt_tokens_computed)} of ${whole(cache.prompt_tokens_without_reuse)} prompt tokens computed`);
  }
  return answers;
}

function savingText(cache) {
  if (cache.times_fewer == null) return "prompt tokens";
  return cache.times_fewer > 1 ? `${decimal(cache.times_fewer, 1)} times fewer` : "nothing";
}

/** Return a link to a token that shows its text, null for no token. */
function namedTokenLink(view, index) {
  if (index == null) return null;
  const { turn, step, token_id } = view.tokens;
  return h("a", { href: view.hashOf(index), "aria-label": `turn ${turn[index]}, token ${step[index]}` },
    tokenCode(view, token_id[index]), " ", h("span", { class: "muted" }, `turn ${turn[index]}`));
}

function moreFacts(view) {
  const { run, go_on } = view.document;
  const rows = [
    ["run", [h("code", null, recorded(run.run_id)), " ", copyButton(run.run_id, { name: "Copy the run id" })]],
    run.parent && ["forked from", run.parent.run_id],
    ["seed", run.seed == null ? null : String(run.seed)],
    ["attention", run.attention], ["recorded in", run.where],
    ["events", run.last_seq == null ? null : whole(run.last_seq + 1)],
    ...run.facts,
  ];
  if (!run.facts.some(([name]) => name === "tokentape")) rows.push(["tokentape", run.tokentape_version]);
  const shown = rows.filter((row) => row && row[1]);
  return h("details", { class: "about" }, h("summary", null, "About this run"),
    h("dl", { class: "pairs" }, shown.map(([name, value]) =>
      [h("dt", null, recorded(name)), h("dd", null, typeof value === "string" ? recorded(value) : value)])),
    go_on.note && h("p", { class: "muted" }, recorded(go_on.note)));
}
