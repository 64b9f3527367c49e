// The measures by which tokens are coloured, and their levels.
import { decimal, duration, nats } from "./numbers.js";

export const LEVELS = 8;

/**
 * The measures. `value` gives a token's number, NaN if it is not recorded. `edges` are the lower
 * ends of the levels 1 to 7; where `isReversed`, a small number is a high level.
 */
export const METRICS = [
  {
    id: "surprise", label: "Surprise", unit: "nats", format: nats,
    says: "Surprise is −log p of the recorded token, by the model's raw logits.",
    value: (tokens, i) => -tokens.logprob[i],
    edges: () => [0.1, 0.4, 1, 2, 3, 4.5, 7],
  },
  {
    id: "entropy", label: "Entropy", unit: "nats", format: nats,
    says: "Entropy of the model's raw distribution: how open the choice was.",
    value: (tokens, i) => tokens.entropy[i],
    edges: () => [0.1, 0.5, 1, 1.75, 2.5, 3.5, 5],
  },
  {
    id: "top_gap", label: "Top-two gap", unit: "nats", format: nats, isReversed: true,
    says: "Gap between the raw scores of the two likeliest tokens; a small one is a close call.",
    value: (tokens, i) => tokens.top_gap[i],
    edges: () => [3, 2, 1.25, 0.75, 0.4, 0.2, 0.08],
  },
  {
    id: "time", label: "Time", unit: "", format: duration,
    says: "Time of the step. The first token of a reply follows from the prompt, whose time its cache line says.",
    value: (tokens, i) => tokens.duration_us[i],
    edges: durationEdges,
  },
];

/** The levels of all tokens of a run by one measure. */
class MetricLevels {
  constructor(view, metric) {
    const { tokens } = view;
    this.metric = metric;
    this.edges = metric.edges(tokens);
    this.values = new Float32Array(tokens.count);
    this.levels = new Uint8Array(tokens.count);
    const sign = metric.isReversed ? -1 : 1;
    for (let i = 0; i < tokens.count; i++) {
      const value = metric.value(tokens, i);
      this.values[i] = value;
      let level = 0;
      while (level < LEVELS - 1 && sign * value >= sign * this.edges[level]) level++;
      this.levels[i] = level;
    }
  }

  /** Return the height of a token in the strip, from 0 to 1. */
  height(index) {
    const value = this.values[index];
    if (Number.isNaN(value)) return 0;
    const top = this.edges.at(-1);
    if (this.metric.isReversed) return Math.max(0, 1 - value / (this.edges[0] * 1.5));
    return Math.min(1, value / (top * 1.15));
  }

  /** Return the lower end of a level as a short text. */
  edgeText(level) {
    const edge = this.edges[level - 1];
    return this.metric.unit ? decimal(edge, edge < 0.1 ? 2 : edge % 1 ? 1 : 0) : duration(edge);
  }
}

/** Return the levels of the tokens by the current measure; they are kept until the run grows. */
export function levelsOf(view) {
  const { count } = view.tokens;
  view.levelsByMetric ??= new Map();
  let levels = view.levelsByMetric.get(view.metric);
  if (!levels || levels.values.length !== count) {
    const metric = METRICS.find((each) => each.id === view.metric) ?? METRICS[0];
    levels = new MetricLevels(view, metric);
    view.levelsByMetric.set(view.metric, levels);
  }
  return levels;
}

/** Return the colours of the levels as the current theme has them, for a canvas. */
export function levelColors(element) {
  return Array.from({ length: LEVELS }, (_, level) => themeColor(element, `--bar${level}`));
}

/** Return a colour of the style sheet as `rgb(…)`, for a canvas. */
export function themeColor(element, name) {
  const probe = document.createElement("span");
  probe.style.color = `var(${name})`;
  element.append(probe);
  const color = getComputedStyle(probe).color;
  probe.remove();
  return color;
}

// Times depend on the machine: the levels begin at quantiles of the run.
function durationEdges(tokens) {
  const step = Math.max(1, Math.floor(tokens.count / 20_000));
  const sample = [];
  for (let i = 0; i < tokens.count; i += step) sample.push(tokens.duration_us[i]);
  sample.sort((a, b) => a - b);
  const at = (share) => sample[Math.floor(share * (sample.length - 1))] ?? 0;
  return [0.4, 0.6, 0.75, 0.87, 0.95, 0.985, 0.998].map(at);
}
