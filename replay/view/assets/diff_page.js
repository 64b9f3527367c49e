// The page of a diff: what was changed first, then the turns side by side, token by token.

import { h, recorded, recordedLines } from "./dom.js";
import { DiffView, sameTurns } from "./diff_view.js";
import { repliesSideBySide } from "./diff_replies.js";
import { counted, instant, whole } from "./numbers.js";
import { dataTable, recordedText, shortNumber, shortSum, unfolding } from "./panel_parts.js";
import { themeSwitch } from "./theme.js";

const ASPECTS = {
  inside_model: "what acts inside the model",
  prompt: "the prompt",
  reply: "the reply",
  numbers: "the numbers of equal tokens",
  sampling: "the settings of the sampler",
  cache: "the use of the cache",
  activations: "the observed activations",
  tools: "the tool calls",
};

const PAIRS_OF_A_FIELD_MAX = 3;
const VARIES = "varies from turn to turn";

/** A value of a field: texts as they are, objects as a list of what they set, the rest as JSON. */
function fieldValue(value) {
  if (isNothing(value)) return h("span", { class: "muted" }, "none");
  if (typeof value === "string") return shortSum(value);
  if (Array.isArray(value) || typeof value !== "object") return recordedText(JSON.stringify(value));
  const set = Object.entries(value).filter(([, each]) => !isNothing(each));
  const items = set.map(([name, each]) => h("li", {}, recorded(name), " ", plainValue(each)));
  return h("ul", { class: "values" }, items);
}

/** A value within an object, in one line. */
function plainValue(value) {
  if (typeof value === "string") return shortSum(value);
  const isPlain = Array.isArray(value) && value.every((each) => typeof each !== "object");
  return recordedText(isPlain ? value.join(", ") : JSON.stringify(value));
}

/** Whether a value is null, or an empty text, list or object. */
function isNothing(value) {
  if (value === null || value === undefined || value === "") return true;
  return typeof value === "object" && Object.keys(value).length === 0;
}

function fieldTable(fields, first = []) {
  const columns = [
    ...first,
    { name: "field", title: "Field" },
    { name: "a", title: "a", wide: true },
    { name: "b", title: "b", wide: true },
  ];
  const rows = fields.map((each) => ({
    ...each,
    field: recorded(each.field),
    a: fieldValue(each.a),
    b: fieldValue(each.b),
  }));
  return dataTable(null, columns, rows, "cards fields");
}

/** "fork of a before turn 3": how a run comes from the other one, or from a third one. */
function originOf(run, other) {
  const { parent } = run;
  if (!parent) return null;
  const whole = parent.token === null || parent.token === undefined;
  const place = whole ? `before turn ${parent.turn}` : `at turn ${parent.turn}, token ${parent.token}`;
  const named = other.run.run_id === parent.run_id ? other.side : ["run ", h("span", { class: "mono" }, recorded(parent.run_id))];
  return h("p", {}, "A fork of ", named, ` ${place}.`);
}

function runCard(side, run, other) {
  const served = Boolean(document.getElementById("document")?.dataset.source);
  const name = run.name ? recorded(run.name) : h("span", { class: "muted" }, "unnamed run");
  const linked = served && /^[0-9a-f-]{8,64}$/.test(run.run_id);
  return h(
    "div",
    { class: `side side-${side}` },
    h("p", {}, h("span", { class: "side-name" }, side), " ", linked ? h("a", { href: `/run/${run.run_id}` }, name) : h("strong", {}, name)),
    originOf(run, other),
    h("p", { class: "muted" }, recorded(run.model ?? ""), " · ", counted(run.turns, "turn"), " · ", recorded(run.status ?? ""), run.started_at_us ? ` · ${instant(run.started_at_us)}` : ""),
    h("p", { class: "muted mono" }, recorded(run.run_id)),
  );
}

/** "1, 3 to 5": turn numbers in short. */
function turnRanges(numbers) {
  const ranges = [];
  for (const each of numbers) {
    const last = ranges.at(-1);
    if (last && each === last[1] + 1) last[1] = each;
    else ranges.push([each, each]);
  }
  return ranges.map(([first, last]) => (first === last ? `${first}` : `${first} to ${last}`)).join(", ");
}

/**
 * Differences that several turns have, each once with its turns. `name`: the list of a turn that
 * they are in. A field with many pairs of values, such as the seed of each turn, is one line.
 */
function changesOfTurns(document, name) {
  const byField = new Map();
  for (const turn of document.turns) {
    for (const field of turn[name]) {
      if (!byField.has(field.field)) byField.set(field.field, new Map());
      const pairs = byField.get(field.field);
      const key = JSON.stringify([field.a, field.b]);
      if (!pairs.has(key)) pairs.set(key, { ...field, numbers: [] });
      pairs.get(key).numbers.push(turn.turn);
    }
  }
  return [...byField.values()].flatMap((pairs) => {
    const found = [...pairs.values()];
    const several = found.length > PAIRS_OF_A_FIELD_MAX;
    const shown = several ? [{ field: found[0].field, a: VARIES, b: VARIES, numbers: found.flatMap((each) => each.numbers) }] : found;
    return shown.map((each) => ({ ...each, turns: turnRanges(each.numbers) }));
  });
}

function changedSection(document) {
  const turns = [{ name: "turns", title: "Turns" }];
  const inside = changesOfTurns(document, "inside_model");
  const sampling = changesOfTurns(document, "sampling");
  const settings = document.settings.length || sampling.length;
  return h(
    "section",
    { id: "changed", "aria-labelledby": "changed-title" },
    h("h2", { id: "changed-title" }, "What was changed"),
    h("h3", {}, "Inside the model"),
    inside.length ? fieldTable(inside, turns) : h("p", {}, "The same interventions, adapters and hooks in both runs."),
    h("h3", {}, "Settings"),
    settings ? null : h("p", {}, "The same settings in both runs."),
    document.settings.length ? fieldTable(document.settings) : null,
    sampling.length ? fieldTable(sampling, turns) : null,
    document.ended?.length ? [h("h3", {}, "How the runs ended"), fieldTable(document.ended)] : null,
    document.noted.length ? notedFields(document.noted) : null,
  );
}

function notedFields(noted) {
  const title = `${counted(noted.length, "difference")} without effect on the tokens, such as names and versions`;
  return unfolding(title, () => fieldTable(noted));
}

function sourceName(source) {
  if (!source) return "nothing";
  const role = source.role === "template" ? "the chat template" : `a message of the role ${source.role}`;
  return `${role} in turn ${source.turn}`;
}

function promptDifference(prompt) {
  if (!prompt) return null;
  const place = prompt.index === null ? "The prompts differ" : `The prompts differ from token ${whole(prompt.index)} on`;
  const source = prompt.source_a ?? prompt.source_b;
  const origin = prompt.inherited ? "only because the earlier turns do" : source ? `in ${sourceName(source)}` : "";
  const text = (value) => (value ? recordedLines(value) : h("span", { class: "muted" }, "nothing more"));
  return [
    h("p", {}, `${place}${origin ? `, ${origin}` : ""}.`),
    prompt.inherited || (!prompt.a && !prompt.b)
      ? null
      : h(
          "div",
          { class: "two" },
          ["a", "b"].map((side) =>
            h("p", { class: "passage" }, h("span", { class: "side-name" }, side), " ", recordedLines(prompt.before), h("mark", { class: `differs-${side}` }, text(prompt[side]))),
          ),
        ),
  ];
}

function toolDifferences(tools) {
  return tools.map((each) => {
    const [a, b] = Array.isArray(each.names) ? each.names : [each.names.a, each.names.b];
    const name = a === b ? a : `${a ?? "no call"} / ${b ?? "no call"}`;
    return [h("h4", {}, `Tool call ${each.call + 1}: `, recorded(name ?? "")), each.fields.length ? fieldTable(each.fields) : null];
  });
}

function turnTitle(turn) {
  if (turn.only_in) return `Turn ${turn.turn} is only in ${turn.only_in}`;
  const names = turn.differing.map((each) => ASPECTS[each] ?? each);
  const last = names.pop();
  return `Turn ${turn.turn} differs in ${names.length ? `${names.join(", ")} and ${last}` : last}`;
}

function numberSentence(turn) {
  const most = turn.logprob_difference_max;
  if (!turn.differing.includes("numbers") || most === null || most === undefined) return null;
  return h("p", {}, `Tokens that are equal have log-probabilities that differ by up to ${shortNumber(most)} nats.`);
}

/** The body of a turn that differs, made when it comes near the window. */
function turnBody(view, turn) {
  return [
    promptDifference(turn.prompt),
    repliesSideBySide(view, turn),
    turn.ending?.length ? [h("h4", {}, "End of the reply"), fieldTable(turn.ending)] : null,
    toolDifferences(turn.tools),
    numberSentence(turn),
    turn.activations?.length ? unfolding("Observed activations", () => fieldTable(turn.activations)) : null,
    turn.cache.length ? unfolding("Use of the cache", () => fieldTable(turn.cache)) : null,
  ];
}

function differingTurn(view, turn) {
  const body = h("div", { class: "turn-body" });
  const section = h(
    "section",
    { id: `t${turn.turn}`, class: "turn-diff", "aria-labelledby": `t${turn.turn}-title` },
    h("h3", { id: `t${turn.turn}-title`, tabindex: "-1", "data-difference": view.firstTargetOf(turn) }, turnTitle(turn)),
    body,
  );
  view.makeLater(section, turn, () => body.append(h("div", {}, turnBody(view, turn))));
  return section;
}

function equalTurns(view, turns) {
  const numbers = turns.map((each) => each.turn);
  const title = turns.length === 1 ? `Turn ${numbers[0]} is the same in both runs` : `Turns ${turnRanges(numbers)} are the same in both runs`;
  return unfolding(
    title,
    () =>
      turns.map((turn) => {
        const one = turn.a ?? turn.b;
        return [
          h("h4", {}, `Turn ${turn.turn}`),
          one?.user ? h("p", { class: "said" }, recordedLines(one.user)) : null,
          h("p", { class: "passage" }, recordedLines(one?.text ?? "")),
        ];
      }),
    { className: "equal-turns" },
  );
}

function turnsSection(view, document) {
  const parts = [];
  for (const group of sameTurns(document.turns)) {
    if (group[0].same) parts.push(equalTurns(view, group));
    else parts.push(...group.map((turn) => differingTurn(view, turn)));
  }
  return h(
    "section",
    { id: "turns", "aria-labelledby": "turns-title" },
    h("h2", { id: "turns-title" }, "Turn by turn"),
    document.turns.length ? parts : h("p", {}, "Neither run has a turn."),
  );
}

function firstLinks(document) {
  const inside = document.first_turn_changed_inside;
  const first = document.first_divergent_turn;
  const items = [
    inside === null ? null : ["First change inside the model: ", h("a", { href: `#t${inside}` }, `turn ${inside}`)],
    first === null ? null : ["First prompt or reply that differs: ", h("a", { href: `#t${first}` }, `turn ${first}`)],
  ].filter(Boolean);
  return items.length ? h("ul", { class: "sentences" }, items.map((each) => h("li", {}, each))) : null;
}

/** The buttons and keys that go from difference to difference. */
function differenceBar(view) {
  const where = h("span", { class: "muted", "aria-live": "polite" }, counted(view.targets.length, "difference"));
  const go = (by) => {
    const index = view.go(by);
    if (index !== null) where.textContent = `${whole(index + 1)} of ${counted(view.targets.length, "difference")}`;
  };
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.target.closest?.("input, select, textarea")) return;
    if (event.key === "n") go(1);
    if (event.key === "p") go(-1);
  });
  return h(
    "nav",
    { class: "difference-bar", "aria-label": "Differences" },
    h("button", { type: "button", class: "quiet", onclick: () => go(-1), "aria-keyshortcuts": "p" }, "Previous ", h("kbd", {}, "p")),
    h("button", { type: "button", class: "quiet", onclick: () => go(1), "aria-keyshortcuts": "n" }, "Next difference ", h("kbd", {}, "n")),
    where,
  );
}

/** Return the page of a diff; `diffDocument` is its document. */
export function diffPage(diffDocument) {
  const view = new DiffView(diffDocument);
  const { a, b, summary } = diffDocument;
  return h(
    "main",
    { class: "diff" },
    h("div", { class: "headline" }, h("h1", {}, "Two runs compared"), h("div", { class: "tools" }, diffDocument.served && h("a", { href: "/" }, "All runs"), themeSwitch())),
    h("div", { class: "two" }, runCard("a", a, { side: "b", run: b }), runCard("b", b, { side: "a", run: a })),
    h("p", { class: "lead" }, recorded(summary)),
    firstLinks(diffDocument),
    changedSection(diffDocument),
    turnsSection(view, diffDocument),
    view.targets.length ? differenceBar(view) : null,
  );
}
