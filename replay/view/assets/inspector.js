// The numbers of one token, its candidates, and the command that goes on from one of them.
import { decimal, duration, nats, percentOf, whole } from "./numbers.js";
import { escapedLine } from "./escapes.js";
import { copyButton, fill, h, recorded } from "./dom.js";
import { commandLine } from "./shell.js";
import { tokenCode } from "./token_code.js";
import { isGreedy } from "./run_view.js";
import { forkEnd, startFork } from "./start_fork.js";

const BYTES_SHOWN = 24;

/** Return the inspector: it shows the token under the pointer, else the selected one. */
export function tokenInspector(view) {
  const body = h("div", { class: "inspector-body" });
  const live = h("p", { class: "offscreen", role: "status", "aria-live": "polite" });
  const element = h("aside", { class: "inspector", "aria-label": "Token inspector" }, sheetToggle(), body, live);
  let shown;
  const show = (index) => {
    if (index === shown) return;
    shown = index;
    fill(body, index === null ? emptyInspector(view) : tokenDetails(view, index));
  };
  view.onHover((index) => show(index ?? view.selected));
  view.onSelect((index) => {
    show(index);
    live.textContent = index === null ? "" : spokenToken(view, index);
  });
  view.onUpdate(() => { shown = undefined; show(view.selected); });
  show(view.selected);
  return element;
}

/** Return the button that opens and closes the inspector where it is a sheet: on a narrow screen. */
function sheetToggle() {
  const button = h("button", { type: "button", class: "sheet-toggle", "aria-expanded": "false" }, "Details of the token");
  button.addEventListener("click", () => {
    const isOpen = button.parentElement.classList.toggle("open");
    button.setAttribute("aria-expanded", String(isOpen));
  });
  return button;
}

function emptyInspector(view) {
  const text = view.tokens.count ? "Point at a token, or select one, to see its numbers." : "No token is recorded yet.";
  return h("p", { class: "muted" }, text);
}

function tokenDetails(view, index) {
  const { tokens } = view;
  const id = tokens.token_id[index];
  return [
    h("div", { class: "token-head" }, tokenCode(view, id),
      h("div", { class: "steps" }, stepButton(view, index - 1, "‹", "Previous token"), stepButton(view, index + 1, "›", "Next token"))),
    h("h3", null, h("a", { href: view.hashOf(index) }, `Turn ${tokens.turn[index]}, token ${tokens.step[index]}`),
      h("span", { class: "muted" }, choiceOf(view, index))),
    numbersTable(view, index),
    pairList(view, index),
    candidateList(view, index),
  ];
}

function stepButton(view, index, sign, name) {
  const isThere = index >= 0 && index < view.tokens.count;
  return h("button", { type: "button", class: "quiet", "aria-label": name, title: name, disabled: !isThere, onclick: () => view.select(index) }, sign);
}

/** Return by whom or how a token was chosen. */
function choiceOf(view, index) {
  if (view.tokens.forced[index]) return "chosen by the experimenter";
  return isGreedy(view.turnOf(index)) ? "greedy" : "sampled";
}

function numbersTable(view, index) {
  const logprob = view.tokens.logprob[index];
  const processed = view.processed(index);
  const column = (name, says) => h("th", { scope: "col", title: `${says} temperature, penalties and filters` }, name);
  return [
    h("table", { class: "numbers" },
      h("thead", null, h("tr", null, h("td", null), column("raw", "before"), column("processed", "after"))),
      h("tbody", null,
        h("tr", null, h("th", { scope: "row" }, "probability"), h("td", null, percentOf(logprob)), h("td", null, percentOf(processed))),
        h("tr", null, h("th", { scope: "row" }, "log-probability"), h("td", null, decimal(logprob, 3)), h("td", null, decimal(processed, 3))))),
    h("p", { class: "muted caption" }, processedCaption(view, index)),
  ];
}

/** Return what raw and processed mean, and what this token shows of it. */
function processedCaption(view, index) {
  if (view.tokens.forced[index]) {
    return "Raw: before temperature, penalties and filters. They do not act on a token that the experimenter chose.";
  }
  const meaning = "Raw: before temperature, penalties and filters. Processed: after them.";
  const [best] = view.top(index);
  const isOther = best && best.id !== view.tokens.token_id[index] && isGreedy(view.turnOf(index));
  return isOther ? `${meaning} Greedy took the likeliest processed token, here not the likeliest raw one.` : meaning;
}

function pairList(view, index) {
  const { tokens } = view;
  const id = tokens.token_id[index];
  const bytes = view.bytes(id);
  const hex = bytes && [...bytes.slice(0, BYTES_SHOWN)].map((byte) => byte.toString(16).padStart(2, "0")).join(" ");
  const rows = [
    ["surprise", nats(-tokens.logprob[index])], ["entropy", nats(tokens.entropy[index])],
    ["top-two gap", nats(tokens.top_gap[index])], ["time", timeOf(view, index)],
    ["id", id < 0 ? "redacted" : String(id)], ["position", whole(tokens.position[index])],
    ["bytes", bytes === null ? "not recorded" : bytes.length ? h("code", null, hex + (bytes.length > BYTES_SHOWN ? " …" : "")) : "none"],
  ];
  return h("dl", { class: "numbers-pairs" }, rows.map(([name, value]) => h("div", null, h("dt", null, name), h("dd", null, value))));
}

/** Return the time of a step; the first one of a round waited for the prompt as well. */
function timeOf(view, index) {
  const time = duration(view.tokens.duration_us[index]);
  const round = view.roundOf(index);
  const prompt = round?.first_token === index ? round.prefill?.duration_us : null;
  return prompt == null ? time : [time, h("div", { class: "muted" }, `prompt ${duration(prompt)}`)];
}

function candidateList(view, index) {
  const candidates = view.top(index);
  if (!candidates.length) return h("p", { class: "muted" }, "No candidates are recorded for this token.");
  const id = view.tokens.token_id[index];
  const rank = candidates.findIndex((each) => each.id === id);
  if (rank < 0) {
    candidates.push({ id, logprob: view.tokens.logprob[index], processed: view.processed(index), removed: "", isBelow: true });
  }
  const command = h("div", { class: "go-on" });
  const radios = candidates.map((each, at) => candidateRow(view, each, { rank: each.isBelow ? null : at + 1, isRecorded: each.id === id }));
  const choose = (at) => {
    radios.forEach((radio, other) => {
      radio.setAttribute("aria-checked", String(other === at));
      radio.tabIndex = other === at ? 0 : -1;
    });
    fill(command, goOn(view, index, candidates[at], id));
  };
  radios.forEach((radio, at) => radio.addEventListener("click", () => choose(at)));
  const list = h("div", { class: "candidates", role: "radiogroup", "aria-label": "Candidates of this token" }, radios);
  list.addEventListener("keydown", (event) => {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    event.stopPropagation();
    const next = (radios.findIndex((radio) => radio.tabIndex === 0) + step + radios.length) % radios.length;
    choose(next);
    radios[next].focus();
  });
  choose(Math.max(0, candidates.findIndex((each) => each.id !== id)));
  return [h("h4", null, "Candidates"), list, command];
}

/** What became of a candidate, where `removers` does not name one setting that removed it. */
const FATES = { "": "", other: "removed by a setting", lowered: "repetition penalty", unknown: "" };

function candidateRow(view, candidate, { rank, isRecorded }) {
  const share = Math.min(1, Math.exp(candidate.logprob));
  const fate = FATES[candidate.removed] ?? `removed by ${escapedLine(candidate.removed)}`;
  const removed = fate && candidate.removed !== "lowered";
  const isKnown = !Number.isNaN(candidate.processed);
  const processed = isKnown && !removed ? percentOf(candidate.processed) : null;
  // Candidates are recorded with half precision: about three digits.
  const digits = isRecorded ? 3 : 2;
  const title = `log-probability ${decimal(candidate.logprob, digits)} raw, ${isKnown ? decimal(candidate.processed, digits) : "not known"} processed; id ${candidate.id}`;
  return h("button", { type: "button", role: "radio", class: `candidate${isRecorded ? " recorded" : ""}${removed ? " removed" : ""}`, title },
    h("span", { class: "rank muted" }, rank === null ? "…" : `${rank}`),
    h("span", { class: "candidate-text" }, tokenCode(view, candidate.id),
      isRecorded && h("span", { class: "tag" }, "recorded"), fate && h("span", { class: "tag out" }, fate)),
    h("span", { class: "share" }, percentOf(candidate.logprob),
      processed && processed !== percentOf(candidate.logprob) && h("span", { class: "muted" }, ` → ${processed}`)),
    h("span", { class: "bar", "aria-hidden": "true", style: { "--share": `${(100 * share).toFixed(2)}%` } }));
}

/** Return the command that forks at a token with a candidate in its place. */
function forkCommand(view, index, tokenId) {
  const { fork } = view.document.go_on;
  if (!fork?.length) return null;
  const { turn, step } = view.tokens;
  return commandLine([...fork, "--at-turn", turn[index], "--at-token", step[index], "--token-id", tokenId, "--continue"]);
}

function goOn(view, index, candidate, recordedId) {
  const command = forkCommand(view, index, candidate.id);
  const { go_on, served } = view.document;
  const note = go_on.note && h("p", { class: "muted" }, recorded(go_on.note));
  if (!command) return note || h("p", { class: "muted" }, "This recording cannot be forked.");
  const isSame = candidate.id === recordedId;
  return [
    h("h4", null, "Go on from here with ", tokenCode(view, candidate.id)),
    h("p", { class: "muted" }, isSame ? "A fork shares the reply up to this token; the model writes the rest again."
      : "A fork has this token here instead; the model writes the rest again."),
    note, go_on.import?.length > 0 && commandLines(commandLine(go_on.import), "Command that imports the recording"),
    commandLines(command, "Command that forks here"),
    h("p", { class: "buttons" }, copyButton(command, { label: "Copy command", name: "Copy the command" }),
      served?.can_fork && startButton(view, index, candidate)),
  ];
}

function commandLines(line, name) {
  return h("pre", { class: "fork-command", tabindex: "0", role: "region", "aria-label": name }, h("code", null, recorded(line)));
}

function startButton(view, index, candidate) {
  const said = h("span", { class: "muted", role: "status" });
  const report = (text) => { said.textContent = ` ${text}`; };
  const button = h("button", { type: "button", class: "primary", onclick: async () => {
    button.disabled = true;
    report("Starting …");
    try {
      const path = await startFork(view, index, candidate.id, report);
      const link = h("a", { href: path }, "Open the fork");
      fill(said, " Started. ", link);
      const end = await forkEnd(path);
      if (end) fill(said, " ", recorded(end), " ", link);
    } catch (error) {
      fill(said, " ", recorded(error.message));
      button.disabled = false;
    }
  } }, "Start it here");
  return [button, said];
}

function spokenToken(view, index) {
  const { tokens } = view;
  const text = view.text(tokens.token_id[index]);
  const [best] = view.top(index);
  const isFirst = best && best.id === tokens.token_id[index];
  return `Turn ${tokens.turn[index]}, token ${tokens.step[index]}: ${text === null ? "not recorded" : escapedLine(text)}. `
    + `Surprise ${nats(-tokens.logprob[index])}, entropy ${nats(tokens.entropy[index])}. `
    + (best && !isFirst ? `Likeliest was ${escapedLine(view.text(best.id) ?? String(best.id))}, ${percentOf(best.logprob)}.` : "");
}
