// The section "Forks": the tree of runs that this run belongs to.

import { h, recorded } from "./dom.js";
import { counted } from "./numbers.js";
import { commandBox, livePanel, tokenLink, turnLink, unfolding } from "./panel_parts.js";

const RUN_ID = /^[0-9a-f-]{8,64}$/;

/** Where a fork left its parent, with a link where that is a token or turn of this page. */
function forkPlace(view, node, parent) {
  if (node.forked_at_turn === null || node.forked_at_turn === undefined) return null;
  const { forked_at_turn: turn, forked_at_token: step } = node;
  const text = step === null ? `before turn ${turn}` : `at turn ${turn}, token ${step}`;
  const here = [node.run_id, parent?.run_id].includes(view.document.run.run_id);
  if (!here) return `forked ${text}`;
  const index = step === null ? null : view.indexOf(turn, step);
  return ["forked ", index === null ? turnLink(view, turn, text) : tokenLink(view, index, text)];
}

/** The name of a run: a link where a server has its page. */
function runName(view, node) {
  const name = node.name ? recorded(node.name) : h("span", { class: "muted" }, "unnamed");
  if (node.run_id === view.document.run.run_id) return h("strong", {}, name);
  if (!view.document.served || !RUN_ID.test(node.run_id)) return h("strong", {}, name);
  return h("a", { href: `/run/${node.run_id}` }, h("strong", {}, name));
}

function runStatus(node) {
  if (!node.error) return recorded(node.status);
  return [recorded(node.status), ": ", recorded(node.error)];
}

/** `order`: the run ids of the tree, a parent before its forks. */
function lineageNode(view, node, parent, order) {
  const isHere = node.run_id === view.document.run.run_id;
  const facts = [
    forkPlace(view, node, parent),
    node.other_model?.length ? ["with another model: ", recorded(node.other_model.join(", "))] : null,
    parent ? `${counted(node.turns, "turn")} of its own` : counted(node.turns, "turn"),
    runStatus(node),
  ].filter(Boolean);
  const line = h(
    "div",
    { class: "lineage-run", "aria-current": isHere ? "true" : null },
    runName(view, node),
    isHere ? [" ", h("span", { class: "here" }, "this page")] : null,
    facts.map((each) => [h("span", { class: "muted" }, " · "), each]),
    h("span", { class: "mono muted" }, recorded(node.run_id)),
  );
  if (!isHere) line.append(waysToOpen(view, node, order));
  const forks = node.forks.map((fork) => lineageNode(view, fork, node, order));
  return h("li", {}, line, forks.length ? h("ul", { class: "lineage" }, forks) : null);
}

/** How to see another run, and what differs between it and this one. */
function waysToOpen(view, node, order) {
  const here = view.document.run.run_id;
  // The older run first: a fork is compared with its parent.
  const [a, b] = [here, node.run_id].sort((one, other) => order.indexOf(one) - order.indexOf(other));
  if (view.document.served && RUN_ID.test(node.run_id) && RUN_ID.test(here)) {
    return h("p", {}, h("a", { href: `/diff?a=${a}&b=${b}` }, "Compare it with this run"));
  }
  const store = storeOptions(view);
  return unfolding("Commands to open and compare it", () => [
    commandBox(["tokentape", "view", node.run_id, ...store], "the command that opens the run"),
    commandBox(["tokentape", "diff", a, b, ...store], "the command that compares the runs"),
  ]);
}

/** `--store` and its value as the other commands of this page have them. */
function storeOptions(view) {
  const argv = view.document.go_on.fork;
  const at = argv.indexOf("--store");
  return at < 0 ? [] : argv.slice(at, at + 2);
}

function parentSentence(view) {
  const { parent } = view.document.run;
  const whole = parent.token === null || parent.token === undefined;
  const place = whole ? `before turn ${parent.turn}` : `at turn ${parent.turn}, token ${parent.token}`;
  const index = whole ? null : view.indexOf(parent.turn, parent.token);
  const link = index === null ? turnLink(view, parent.turn, place) : tokenLink(view, index, place);
  return h("p", {}, "It was forked from run ", h("span", { class: "mono" }, recorded(parent.run_id)), " ", link, ".");
}

/** The run ids of a tree, a parent before its forks. */
function runIds(node) {
  return [node.run_id, ...node.forks.flatMap(runIds)];
}

/** Return the panel of the forks. */
export function lineagePanel(view) {
  const signature = () => JSON.stringify(view.document.lineage);
  return livePanel(view, signature, () => lineageParts(view));
}

function lineageParts(view) {
  const { lineage, run } = view.document;
  const tree = lineage ?? { ...run, forks: [], turns: view.document.turns.length };
  const order = runIds(tree);
  const runs = order.length;
  const canFork = view.tokens.count > 0 && view.document.go_on.fork.length > 0;
  const alone = run.parent ? "The page holds no other run of its family." : "This run has no forks, and it is not a fork itself.";
  const lead = runs > 1
    ? `This run belongs to a family of ${counted(runs, "run")}. A fork shares the beginning of its parent and goes its own way from the named place.`
    : alone;
  return [
    h("p", { class: "lead" }, lead),
    run.parent ? parentSentence(view) : null,
    runs > 1 ? h("ul", { class: "lineage" }, lineageNode(view, tree, null, order)) : null,
    canFork ? h("p", {}, "To fork this run, select a token in the transcript: each candidate has its command.") : null,
  ];
}
