// The section "Inside the model": interventions and activations as tracks over the run's tokens.

import { h, recorded } from "./dom.js";
import { escapedLine } from "./escapes.js";
import { themeColor } from "./colors.js";
import { counted, whole } from "./numbers.js";
import { addInParts, dataTable, livePanel, shortNumber, tokenLink } from "./panel_parts.js";
import { turnLink, unfolding } from "./panel_parts.js";

const TRACK_HEIGHT = 28;
const LAYERS_SHOWN = 8;
const SPANS_LISTED = 30;
const STATISTICS = {
  l2_norm_mean: "mean length of the activation (L2 norm)",
  l2_norm_max: "largest length of the activation (L2 norm)",
  mean: "mean",
  std: "standard deviation",
  abs_max: "largest magnitude",
  near_zero_percentage: "share near zero, in percent",
  kurtosis: "kurtosis (3 for a normal distribution)",
};
const NOT_DRAWN = new Set(["abs_max_position", "abs_max_channel", "calls_per_forward"]);
const RULES = {
  steer: "adds a vector to the output",
  ablate_zero: "sets the output to zero",
  ablate_mean: "sets the output to a mean",
  scale: "multiplies the output",
  patch: "replaces the output by recorded activations",
  placebo: "changes nothing, as a control",
};

/** A canvas as wide as the strip of the run, on which `draw(context, width, height, colors)` draws. */
function trackCanvas(view, label, draw) {
  const canvas = h("canvas", { class: "track", role: "img", "aria-label": label });
  canvas.drawTrack = () => {
    const width = canvas.clientWidth;
    if (!width) return;
    const ratio = globalThis.devicePixelRatio || 1;
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(TRACK_HEIGHT * ratio);
    const context = canvas.getContext("2d");
    context.scale(ratio, ratio);
    draw(context, width, TRACK_HEIGHT, trackColors(canvas.parentElement));
  };
  const indexAt = (event) => {
    const box = canvas.getBoundingClientRect();
    const index = Math.floor(((event.clientX - box.left) / box.width) * view.tokens.count);
    return Math.max(0, Math.min(view.tokens.count - 1, index));
  };
  canvas.addEventListener("click", (event) => view.select(indexAt(event)));
  canvas.addEventListener("pointermove", (event) => event.pointerType === "mouse" && view.hover(indexAt(event)));
  canvas.addEventListener("pointerleave", () => view.hover(null));
  return h("div", { class: "track-holder" }, canvas);
}

function trackColors(element) {
  const of = (name) => themeColor(element, `--track-${name}`);
  return { line: of("line"), on: of("on"), prompt: of("prompt") };
}

/** The pixels of tokens `first` to `last`, at least `least` wide. */
function spanPixels(view, first, last, width, least) {
  const count = Math.max(view.tokens.count, 1);
  const left = (first / count) * width;
  return [left, Math.max(((last + 1 - first) / count) * width, least)];
}

/** Draw the base line of a track and the beginnings of turns, as far as there is room for them. */
function drawGround(view, context, width, height, color) {
  context.fillStyle = color;
  context.fillRect(0, height - 1, width, 1);
  const turns = view.document.turns;
  if (turns.length * 6 > width) return;
  for (const turn of turns) context.fillRect(spanPixels(view, turn.first_token, 0, width, 0)[0], 0, 1, height);
}

/** Where the prompt of a turn is in the strip: before the first token of the turn. */
function promptPixel(view, turn, width) {
  const found = view.document.turns.find((each) => each.turn === turn);
  return found ? spanPixels(view, found.first_token, 0, width, 0)[0] : null;
}

function ruleText(each) {
  const known = RULES[each.kind] ?? "";
  const layers = each.layers.length > 3 ? `${each.layers.length} layers` : each.layers.join(", ");
  return `${each.kind}${known ? ` (${known})` : ""} in ${layers}`;
}

function spanName(view, span) {
  const step = (index) => whole(view.tokens.step[index]);
  const [first, last] = [span.first_token, span.last_token];
  const [turn, end] = [view.tokens.turn[first], view.tokens.turn[last]];
  if (turn !== end) return `turn ${turn}, token ${step(first)} to turn ${end}, token ${step(last)}`;
  if (first === last) return `turn ${turn}, token ${step(first)}`;
  return `turn ${turn}, tokens ${step(first)} to ${step(last)}`;
}

function covered(each) {
  return each.spans.reduce((sum, span) => sum + span.last_token + 1 - span.first_token, 0);
}

function promptCovered(each) {
  return each.prompt_spans.reduce((sum, span) => sum + span.end - span.start, 0);
}

function interventionTrack(view, each) {
  const tokens = counted(covered(each), "generated token");
  const prompt = promptCovered(each);
  const reach = prompt ? `${tokens} and ${counted(prompt, "prompt token")}` : tokens;
  const draw = (context, width, height, colors) => {
    drawGround(view, context, width, height, colors.line);
    context.fillStyle = colors.on;
    for (const span of each.spans) {
      const [left, wide] = spanPixels(view, span.first_token, span.last_token, width, 2);
      context.fillRect(left, 4, wide, height - 8);
    }
    drawPromptMarks(view, context, each.prompt_spans, width, height, colors.prompt);
  };
  const name = escapedLine(each.name);
  const canvas = trackCanvas(view, `${name} acted on ${reach}`, draw);
  return h(
    "figure",
    { class: "track-row" },
    h("figcaption", {}, h("strong", {}, recorded(each.name)), " ", recorded(ruleText(each)), `. Acted on ${reach}.`),
    canvas,
    unfolding("Rule and positions", () => interventionDetails(view, each)),
  );
}

/** A triangle before the reply of a turn whose prompt was changed: the strip shows replies only. */
function drawPromptMarks(view, context, spans, width, height, color) {
  context.fillStyle = color;
  for (const turn of new Set(spans.map((span) => span.turn))) {
    const x = promptPixel(view, turn, width);
    if (x === null) continue;
    context.beginPath();
    context.moveTo(x, 4);
    context.lineTo(x + 7, height / 2);
    context.lineTo(x, height - 4);
    context.fill();
  }
}

function interventionDetails(view, each) {
  const list = h("ul", { class: "spans" });
  const add = (span) => list.append(h("li", {}, spanItem(view, span)));
  return [
    h("p", { class: "mono" }, recorded(each.rule)),
    addInParts(list, [...each.prompt_spans, ...each.spans], add, "spans", SPANS_LISTED),
  ];
}

function spanItem(view, span) {
  if (span.first_token !== undefined) return tokenLink(view, span.first_token, spanName(view, span));
  return ["prompt of ", turnLink(view, span.turn, `turn ${span.turn}`), `, positions ${whole(span.start)} to ${whole(span.end - 1)}`];
}

/** The observations by layer, each with its number of the statistic. */
function valuesByLayer(activations, statistic) {
  const layers = new Map();
  for (const each of activations) {
    const value = each.statistics[statistic];
    if (typeof value !== "number") continue;
    if (!layers.has(each.layer)) layers.set(each.layer, []);
    layers.get(each.layer).push({ ...each, value });
  }
  return layers;
}

function statisticNames(activations) {
  const names = new Set();
  for (const each of activations) {
    for (const [name, value] of Object.entries(each.statistics)) {
      if (typeof value === "number" && !NOT_DRAWN.has(name)) names.add(name);
    }
  }
  const known = Object.keys(STATISTICS);
  const rank = (name) => (known.includes(name) ? known.indexOf(name) : known.length);
  return [...names].sort((a, b) => rank(a) - rank(b));
}

/** The tokens that an observation covers: those of its turn where it is of the reply. */
function observedTokens(view, each) {
  if (each.first_token === null) return null;
  const last = Math.min(each.first_token + Math.max(each.end - each.start, 1), view.tokens.count) - 1;
  return [each.first_token, Math.max(last, each.first_token)];
}

function activationTrack(view, layer, values) {
  const numbers = values.map((each) => each.value);
  const [low, high] = [Math.min(...numbers), Math.max(...numbers)];
  const bottom = Math.min(low, 0);
  const draw = (context, width, height, colors) => {
    drawGround(view, context, width, height, colors.line);
    const scale = (value) => ((value - bottom) / (Math.max(high, 0) - bottom || 1)) * (height - 4);
    for (const each of values) {
      const tokens = observedTokens(view, each);
      const tall = Math.max(scale(each.value), 1);
      if (tokens) {
        context.fillStyle = colors.on;
        const [left, wide] = spanPixels(view, tokens[0], tokens[1], width, 2);
        context.fillRect(left, height - tall, Math.max(wide - 1, 1), tall);
      } else {
        context.fillStyle = colors.prompt;
        const x = promptPixel(view, each.turn, width);
        if (x !== null) context.fillRect(Math.max(x - 2, 0), height - tall, 3, tall);
      }
    }
  };
  const range = low === high ? shortNumber(low) : `${shortNumber(low)} to ${shortNumber(high)}`;
  const readout = h("span", { class: "readout" });
  const canvas = trackCanvas(view, `${escapedLine(layer)}: ${range}, ${counted(values.length, "observation")}`, draw);
  const row = h(
    "figure",
    { class: "track-row" },
    h("figcaption", {}, h("strong", {}, recorded(layer)), ` ${range} `, readout),
    canvas,
  );
  row.readAt = (index) => {
    const here = index !== null && values.find((each) => {
      const tokens = observedTokens(view, each);
      return tokens && tokens[0] <= index && index <= tokens[1];
    });
    const place = here && `turn ${view.tokens.turn[index]}, token ${whole(view.tokens.step[index])}`;
    readout.textContent = here ? `· ${shortNumber(here.value)} at ${place}` : "";
  };
  return row;
}

/** The tracks of one statistic, and a table of all its numbers. */
function activationTracks(view, statistic, redraw) {
  const layers = [...valuesByLayer(view.document.activations, statistic)];
  const rows = h("div", {});
  const add = ([layer, values]) => {
    rows.append(activationTrack(view, layer, values));
    redraw();
  };
  const shown = addInParts(rows, layers, add, "layers", LAYERS_SHOWN);
  return [shown, unfolding("The numbers as a table", () => activationTable(view, layers))];
}

function activationTable(view, layers) {
  const rows = layers.flatMap(([layer, values]) =>
    values.map((each) => ({
      layer: recorded(layer),
      where: placeOfObservation(view, each),
      positions: `${whole(each.start)} to ${whole(each.end - 1)}`,
      value: shortNumber(each.value),
    })),
  );
  const columns = [
    { name: "layer", title: "Layer" },
    { name: "where", title: "Observed in" },
    { name: "positions", title: "Positions", number: true },
    { name: "value", title: "Value", number: true },
  ];
  return dataTable(null, columns, rows);
}

function placeOfObservation(view, each) {
  const tokens = observedTokens(view, each);
  if (!tokens) return ["prompt of ", turnLink(view, each.turn, `turn ${each.turn}`)];
  return ["reply of ", tokenLink(view, tokens[0], `turn ${each.turn}`)];
}

function statisticChoice(names, choose) {
  const select = h(
    "select",
    { id: "statistic" },
    ...names.map((name) => h("option", { value: name }, STATISTICS[name] ?? escapedLine(name))),
  );
  select.addEventListener("change", () => choose(select.value));
  return h("p", {}, h("label", { for: "statistic" }, "Show the "), select);
}

/** Draw the line of a token over each track; none for null. */
function moveCursor(view, tracks, index) {
  const { count } = view.tokens;
  tracks.classList.toggle("with-cursor", index !== null && count > 0);
  if (index !== null && count > 0) tracks.style.setProperty("--at", `${(100 * (index + 0.5)) / count}%`);
}

function legendOfTracks() {
  return h(
    "p",
    { class: "legend" },
    "From left to right: the generated tokens of the run, as in the strip. ",
    h("span", { class: "key track-on", "aria-hidden": "true" }),
    " acts on, or observed in, generated tokens ",
    h("span", { class: "key track-prompt", "aria-hidden": "true" }),
    " in the prompt before them. Point at a track to read its values, and click to go to a token.",
  );
}

/** Return the panel of interventions and activations. */
export function tracksPanel(view) {
  const signature = () => {
    const { interventions, activations } = view.document;
    const observed = interventions.length + activations.length;
    // The tracks are as long as the run.
    return observed ? [observed, view.tokens.count] : 0;
  };
  let follow = () => {};
  view.onSelect((index) => follow(index));
  view.onHover((index) => follow(index ?? view.selected));
  return livePanel(view, signature, () => {
    const { interventions, activations } = view.document;
    if (!interventions.length && !activations.length) {
      return h("p", {}, "Nothing was changed or observed inside the model: the run has no interventions and no recorded activations.");
    }
    const tracks = h("div", { class: "tracks" });
    const redraw = () => tracks.querySelectorAll("canvas.track").forEach((each) => each.drawTrack());
    tracks.append(...interventionPart(view));
    if (activations.length) tracks.append(...activationPart(view, redraw));
    watchTracks(tracks, redraw);
    follow = (index) => {
      moveCursor(view, tracks, index);
      for (const row of tracks.querySelectorAll(".track-row")) row.readAt?.(index);
    };
    follow(view.selected);
    return [legendOfTracks(), tracks];
  });
}

function interventionPart(view) {
  const { interventions } = view.document;
  if (!interventions.length) return [h("p", {}, "No intervention changed the model.")];
  const lead = `${counted(interventions.length, "intervention")} changed the output of layers during the run.`;
  return [
    h("h3", {}, "Interventions"),
    h("p", { class: "lead" }, lead),
    ...interventions.map((each) => interventionTrack(view, each)),
  ];
}

function activationPart(view, redraw) {
  const names = statisticNames(view.document.activations);
  const holder = h("div", {});
  const choose = (name) => {
    holder.replaceChildren(...activationTracks(view, name, redraw));
    redraw();
  };
  const parts = [h("h3", {}, "Activations"), statisticChoice(names, choose), holder];
  if (names.length) choose(names[0]);
  return parts;
}

/** Draw again when the width or the colours of the page change. */
function watchTracks(tracks, redraw) {
  new ResizeObserver(redraw).observe(tracks);
  window.addEventListener("themechange", redraw);
}
