// The section "Replays": each verdict of a replay, why, and the first divergence on both sides.

import { h, recorded, recordedLines } from "./dom.js";
import { escapedLine } from "./escapes.js";
import { counted, decimal, instant, whole } from "./numbers.js";
import { addInParts, commandBox, dataTable, livePanel, recordedText } from "./panel_parts.js";
import { shortNumber, shortSum, tokenBox, tokenLink, turnLink, unfolding } from "./panel_parts.js";

const ALTERED_SHOWN = 20;
const VERDICTS = {
  exact: { symbol: "=", meaning: "every recorded number is the same, bit for bit" },
  verified: { symbol: "✓", meaning: "the replay picks every recorded token, and the log-probabilities agree within the noise" },
  near_tie: { symbol: "≈", meaning: "a pick differs, but by no more than the noise explains" },
  drifted: { symbol: "~", meaning: "the same tokens, but the log-probabilities differ by more than the noise" },
  diverged: { symbol: "✕", meaning: "the replay picks another token than the recorded one" },
  incomparable: { symbol: "≠", meaning: "model or machine are not those of the recording, so the numbers cannot be compared" },
};
const REPLAYS = {
  verify: "verify: one forward pass over the recorded tokens, and each pick made again",
  retrace: "retrace: every forward pass of the run again, compared bit for bit",
  regenerate: "regenerate: the replies generated again with Hugging Face generate",
};
const KINDS = {
  token: "The sampler picks another token than the recorded one.",
  filtered: "The sampler would have removed the recorded token.",
  near_tie: "Another token is picked, but within the noise.",
  logprob: "The same token is picked, with another log-probability.",
  sampler: "The same token is picked, with another log-probability after the processors.",
};

/** A verdict as a badge: a symbol and a word, never a colour alone. */
export function verdictBadge(verdict) {
  const symbol = VERDICTS[verdict]?.symbol ?? "?";
  const word = String(verdict).replaceAll("_", " ");
  const className = VERDICTS[verdict] ? verdict : "";
  return h("span", { class: `badge ${className}` }, h("span", { "aria-hidden": "true" }, `${symbol} `), recorded(word));
}

function divergencePlace(each) {
  return `Turn ${each.turn ?? "?"}, token ${whole(each.step)}`;
}

/** Whether both sides have the same token, so that only its numbers differ. */
function hasSameToken(each) {
  const { recorded: one, replayed: other } = each;
  return (one.token_id ?? null) !== null && one.token_id === other.token_id;
}

/** "Turn 12, token 5: recorded X, replayed Y"; for the same token both its log-probabilities. */
function divergenceTitle(each) {
  if (hasSameToken(each)) {
    const numbers = [each.recorded, each.replayed].map((side) => decimal(side.logprob, 4));
    return [divergencePlace(each), ": ", tokenBox(each.recorded), ` log-probability recorded ${numbers[0]}, replayed ${numbers[1]}`];
  }
  return [divergencePlace(each), ": recorded ", tokenBox(each.recorded, "old"), ", replayed ", tokenBox(each.replayed, "new")];
}

/** A link to the token of a divergence. The token of another recording may be another one. */
function divergenceLink(view, each, label) {
  if (each.token === null || each.token === undefined) return null;
  const place = `See ${divergencePlace(each).toLowerCase()}`;
  if (!label) return h("p", {}, tokenLink(view, each.token, `${place} in the transcript`));
  const not = h("span", { class: "muted" }, " The transcript shows the recording of this page, not “", recorded(label), "”.");
  return h("p", {}, tokenLink(view, each.token, `${place} of this page's recording`), ".", not);
}

function marginSentence(each, floor) {
  if (hasSameToken(each)) return "";
  if (each.margin === null || each.margin === undefined) {
    const gap = each.boundary_gap ?? null;
    return gap === null ? "" : `The recorded token falls short of the last one that the filters keep by ${shortNumber(gap)} logits.`;
  }
  const eps = floor ? `; the noise explains at most ${shortNumber(floor.margin_eps)}` : "";
  return `The recorded token falls short of the pick by ${shortNumber(each.margin)} logits${eps}.`;
}

function differenceSentence(each, floor) {
  const noise = floor ? `; the noise explains at most ${shortNumber(floor.logprob_floor)}` : "";
  return `The log-probability of the recorded token differs by ${shortNumber(each.logprob_difference)} nats${noise}.`;
}

function candidateRows(tokens, chosen) {
  return tokens.map((each, index) => ({
    rank: `${index + 1}`,
    token: [tokenBox(each), each.filtered_by ? [" ", h("span", { class: "muted" }, "removed by ", recorded(each.filtered_by))] : null],
    id: `${each.token_id ?? "–"}`,
    logprob: decimal(each.logprob, 4),
    rowClass: each.token_id === chosen.token_id ? "picked" : "",
  }));
}

function candidateTable(title, tokens, chosen) {
  if (!tokens.length) return h("p", { class: "muted" }, `${title}: not recorded.`);
  const columns = [
    { name: "rank", title: "#", number: true },
    { name: "token", title: "Token" },
    { name: "id", title: "Id", number: true },
    { name: "logprob", title: "Log-probability", number: true },
  ];
  return dataTable(title, columns, candidateRows(tokens, chosen), "small candidates");
}

function sideOf(title, token, tokens) {
  const number = typeof token.logprob === "number" ? `log-probability ${decimal(token.logprob, 4)}` : "";
  return h(
    "div",
    {},
    h("p", {}, h("span", { class: "muted" }, `${title} `), tokenBox(token), ` id ${token.token_id ?? "not known"}${number ? `, ${number}` : ""}`),
    candidateTable(`Likeliest tokens, ${title}`, tokens, token),
  );
}

/** A divergence in full: its text, both tokens with their candidates, and by how much. */
function divergenceInFull(view, each, { floor, label }) {
  const text = h(
    "div",
    { class: "passage", role: "group", "aria-label": "The recorded text around the token" },
    recordedLines(each.text_before),
    h("mark", {}, recorded(each.recorded.text)),
    recordedLines(each.text_after),
  );
  return h(
    "div",
    { class: "divergence" },
    KINDS[each.kind] ? h("p", {}, KINDS[each.kind]) : null,
    text,
    divergenceLink(view, each, label),
    h("p", {}, marginSentence(each, floor), " ", differenceSentence(each, floor)),
    h("div", { class: "two" }, sideOf("recorded", each.recorded, each.recorded_top), sideOf("replayed", each.replayed, each.replayed_top)),
  );
}

function firstDivergence(view, report) {
  const [first] = report.divergences;
  if (!first) return null;
  return [
    h("h4", { class: "divergence-title" }, divergenceTitle(first)),
    divergenceInFull(view, first, report),
  ];
}

function otherDivergences(view, report) {
  const others = report.divergences.slice(1);
  const left = report.divergences_total - report.divergences.length;
  return [
    divergenceList(view, report, others.filter((each) => !hasSameToken(each)), "further token that differs", "further tokens that differ"),
    divergenceList(view, report, others.filter(hasSameToken), "further token that is the same, with other numbers", "further tokens that are the same, with other numbers"),
    left > 0 ? h("p", { class: "muted" }, `${counted(left, "more divergence")} are not in this page.`) : null,
  ];
}

function divergenceList(view, report, divergences, one, several) {
  if (!divergences.length) return null;
  return unfolding(`${whole(divergences.length)} ${divergences.length === 1 ? one : several}`, () => {
    const holder = h("div", {});
    const add = (each) => holder.append(unfolding(divergenceTitle(each), () => divergenceInFull(view, each, report)));
    return addInParts(holder, divergences, add, "divergences");
  });
}

function turnTable(view, report) {
  const columns = [
    { name: "turn", title: "Turn" },
    { name: "verdict", title: "Verdict" },
    { name: "tokens", title: "Tokens", number: true },
    { name: "mismatches", title: "Other picks", number: true },
    { name: "near_ties", title: "Near ties", number: true },
    { name: "difference", title: "Largest difference (nats)", number: true },
  ];
  const rows = report.turns.map((each) => ({
    turn: turnLink(view, each.turn, `turn ${each.turn}`),
    verdict: verdictBadge(each.verdict),
    tokens: whole(each.tokens),
    mismatches: whole(each.mismatches),
    near_ties: whole(each.near_ties),
    difference: shortNumber(each.logprob_difference_max),
  }));
  return dataTable(null, columns, rows);
}

function turnsUnfolding(view, report) {
  if (!report.turns.length) return null;
  const counts = new Map();
  for (const each of report.turns) counts.set(each.verdict, (counts.get(each.verdict) ?? 0) + 1);
  const parts = [...counts].map(([verdict, count]) => `${count} ${String(verdict).replaceAll("_", " ")}`);
  return unfolding(`${counted(report.turns.length, "turn")}: ${parts.join(", ")}`, () => turnTable(view, report));
}

function causesPart(view, report) {
  const said = new Set([report.reason, ...report.altered]);
  const causes = report.causes.filter((each) => !said.has(each.sentence));
  if (!causes.length) return null;
  const items = causes.map((each) => {
    const place = each.turn === null || each.turn === undefined ? null : [" (", turnLink(view, each.turn, `turn ${each.turn}`), ")"];
    return h("li", {}, recorded(each.sentence), place);
  });
  const title = causes.length === report.causes.length ? "Likely causes" : "Found as well";
  return [h("h4", {}, title), h("ul", { class: "sentences" }, items)];
}

function alteredPart(report) {
  if (!report.altered.length) return null;
  const list = h("ul", { class: "sentences" });
  const add = (text) => list.append(h("li", {}, recordedText(text)));
  return [
    h("h4", {}, "The recording was altered"),
    h("p", {}, "It contradicts itself, or its seals do not fit:"),
    addInParts(list, report.altered, add, "findings", ALTERED_SHOWN),
  ];
}

function toolsPart(view, report) {
  if (!report.tools?.length) return null;
  const columns = [
    { name: "turn", title: "Turn" },
    { name: "tool", title: "Tool" },
    { name: "field", title: "Field" },
    { name: "recorded", title: "Recorded", wide: true },
    { name: "replayed", title: "Replayed", wide: true },
  ];
  const rows = report.tools.map((each) => ({
    turn: turnLink(view, each.turn, `turn ${each.turn}`),
    tool: recorded(each.tool),
    field: recorded(each.field),
    recorded: recordedText(each.recorded),
    replayed: recordedText(each.replayed),
  }));
  return [h("h4", {}, "Tools that returned something else"), dataTable(null, columns, rows)];
}

/** What of the model and the machine is not as it was recorded. */
function fingerprintsPart(report) {
  const found = report.fingerprints ?? [];
  if (!found.length) return null;
  const columns = [
    { name: "field", title: "What" },
    { name: "weight", title: "Weight" },
    { name: "recorded", title: "Recorded", wide: true },
    { name: "replayed", title: "In the replay", wide: true },
  ];
  const rows = found.map((each) => ({
    field: recorded(each.field),
    weight: each.forbids ? "forbids a comparison" : "noted",
    recorded: shortSum(each.recorded),
    replayed: [shortSum(each.replayed), each.detail ? h("div", { class: "muted" }, recordedText(each.detail)) : null],
  }));
  const table = () => dataTable(null, columns, rows, "cards fields");
  if (found.some((each) => each.forbids)) return [h("h4", {}, "Model and machine that differ"), table()];
  return unfolding(`${counted(rows.length, "difference")} of the machine, without effect on the verdict`, table);
}

function floorSentence(floor) {
  if (!floor.tokens) return "No noise is allowed for.";
  return (
    `Allowed for as noise in ${escapedLine(floor.dtype)}: log-probabilities up to ${shortNumber(floor.logprob_floor)} nats, margins up to ${shortNumber(floor.margin_eps)} logits, measured on ${counted(floor.tokens, "token")}.`
  );
}

/** The noise that a replay allows for; `said` has the sentences of the replays before it. */
function floorPart({ floor }, said) {
  if (!floor) return null;
  const sentence = floorSentence(floor);
  const isNew = !said.has(sentence);
  said.add(sentence);
  return isNew ? h("p", { class: "muted" }, sentence) : null;
}

function repeatPart({ label, repeat }) {
  const what = "the command that repeats the replay";
  if (!label) return repeat.length ? [h("p", {}, "Repeat it:"), commandBox(repeat, what)] : null;
  if (repeat.length) return [h("p", {}, "Repeat it, on “", recorded(label), "”:"), commandBox(repeat, what)];
  const sentence = "No command is shown: this report is of another recording, which this page does not know how to open.";
  return h("p", { class: "muted" }, sentence);
}

/** One replay. A label says of what it was a replay, where that is not this recording. */
function verdictArticle(view, report, said) {
  const replayed = REPLAYS[report.replay] ?? report.replay;
  const meaning = VERDICTS[report.verdict]?.meaning;
  const when = report.at_us ? ` · ${instant(report.at_us)}` : "";
  return h(
    "article",
    { class: `verdict ${report.passes ? "passes" : "fails"}` },
    h("h3", {}, report.label ? [h("span", { class: "label" }, recorded(report.label)), " "] : "This recording ", verdictBadge(report.verdict)),
    h("p", { class: "muted" }, recorded(replayed), when),
    report.reason ? h("p", { class: "lead" }, recorded(report.reason)) : null,
    meaning && !report.reason ? h("p", { class: "lead" }, `${meaning[0].toUpperCase()}${meaning.slice(1)}.`) : null,
    firstDivergence(view, report),
    causesPart(view, report),
    alteredPart(report),
    toolsPart(view, report),
    fingerprintsPart(report),
    otherDivergences(view, report),
    turnsUnfolding(view, report),
    floorPart(report, said),
    repeatPart(report),
  );
}

/** Return the panel of the replays. */
export function verdictsPanel(view) {
  const signature = () => view.document.verdicts.map((each) => `${each.label} ${each.replay} ${each.at_us}`).join();
  return livePanel(view, signature, () => verdictsParts(view));
}

function verdictsParts(view) {
  const { verdicts } = view.document;
  const own = verdicts.filter((each) => !each.label);
  const said = new Set();
  return [
    h("p", { class: "lead" }, leadOfVerdicts(own)),
    own.length ? null : waysToReplay(view),
    verdicts.map((each) => verdictArticle(view, each, said)),
  ];
}

function leadOfVerdicts(own) {
  if (!own.length) return "No replay of this recording is stored, so nothing on this page has been verified.";
  const passing = own.filter((each) => each.passes).length;
  if (own.length > 1) return `${passing} of ${own.length} stored replays agree with this recording.`;
  return passing ? "The stored replay agrees with this recording." : "The stored replay does not agree with this recording.";
}

function waysToReplay(view) {
  const { verify, retrace, note } = view.document.go_on;
  const way = (text, argv, what) => (argv?.length ? [h("p", {}, text), commandBox(argv, what)] : null);
  return [
    way("Check the recorded tokens and numbers with one forward pass:", verify, "the command that verifies"),
    way("Or compute every forward pass again and compare bit for bit:", retrace, "the command that retraces"),
    note ? h("p", { class: "muted" }, recorded(note)) : null,
  ];
}
