// The whole run as one strip of bars: what is high stands out, a click jumps there.
import { h } from "./dom.js";
import { LEVELS, levelColors, levelsOf, METRICS, themeColor } from "./colors.js";

const BARS = 40;
const NUMBERS = 16;
// Fewer turns are told apart by lines: a band would be a wide grey block.
const BANDED_FROM = 4;

/** Return the strip of a run with the choice of the measure and the legend. `chunks` knows what is visible. */
export function runStrip(view, chunks) {
  const canvas = h("canvas", { class: "strip-canvas", "aria-hidden": "true" });
  const slider = h("div", {
    class: "strip-slider", role: "slider", tabindex: "0", "aria-label": "Strip of the run: place in it",
    "aria-valuemin": "0", "aria-orientation": "horizontal",
  }, canvas);
  const strip = new RunStrip(view, chunks, slider, canvas);
  const element = h("div", { class: "strip", hidden: !view.tokens.count },
    h("div", { class: "strip-bar" }, metricChoice(view), metricLegend(view)), strip.element);
  view.onUpdate(() => { element.hidden = !view.tokens.count; });
  return element;
}

/** Return the buttons that choose the measure of the colours. */
function metricChoice(view) {
  const buttons = METRICS.map((metric) => h("button", {
    type: "button", role: "radio", title: metric.says, onclick: () => view.setMetric(metric.id),
  }, metric.label));
  const group = h("div", { class: "choice", role: "radiogroup", "aria-label": "Colour tokens by" }, buttons);
  const show = () => METRICS.forEach((metric, at) => {
    const isChosen = metric.id === view.metric;
    buttons[at].setAttribute("aria-checked", String(isChosen));
    buttons[at].tabIndex = isChosen ? 0 : -1;
  });
  group.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    event.stopPropagation();
    const at = METRICS.findIndex((metric) => metric.id === view.metric);
    const next = (at + step + METRICS.length) % METRICS.length;
    view.setMetric(METRICS[next].id);
    buttons[next].focus();
  });
  view.onMetric(show);
  show();
  return group;
}

function metricLegend(view) {
  const legend = h("p", { class: "legend" });
  const show = () => {
    const levels = levelsOf(view);
    const { metric } = levels;
    const swatches = Array.from({ length: LEVELS - 1 }, (_, at) =>
      h("span", { class: `t m${at + 1}` }, levels.edgeText(at + 1)));
    legend.replaceChildren(
      h("span", { class: "muted" }, metric.isReversed ? "below" : "from"), " ",
      h("span", { class: "swatches" }, swatches), " ",
      h("span", { class: "muted" }, metric.unit), ...markLegend(view));
    legend.title = metric.says;
  };
  view.onMetric(show);
  view.onUpdate(show);
  show();
  return legend;
}

/** Return what the marks of the strip mean, of those that it has. */
function markLegend(view) {
  const acted = view.document.interventions.some(({ spans }) => spans.some((span) => span.first_token != null));
  return [
    acted && h("span", { class: "acted" }, "acted inside the model"),
    view.divergedTokens?.size > 0 && h("span", { class: "left" }, "a replay diverged"),
  ].filter(Boolean);
}

/** The canvas of the strip, and what the pointer and the keys do on it. */
class RunStrip {
  constructor(view, chunks, slider, canvas) {
    Object.assign(this, { view, chunks, element: slider, canvas, isWaiting: false });
    const later = () => this.drawLater();
    chunks.onSeen = later;
    view.onMetric(later);
    view.onSelect(later);
    view.onUpdate(later);
    window.addEventListener("scroll", later, { passive: true });
    window.addEventListener("themechange", () => { this.colors = null; later(); });
    new ResizeObserver(() => { this.base = null; later(); }).observe(slider);
    slider.addEventListener("pointermove", (event) => event.pointerType === "mouse" && view.hover(this.highestNear(this.shareOf(event))));
    slider.addEventListener("pointerdown", (event) => this.drag(event));
    slider.addEventListener("keydown", (event) => this.key(event));
  }

  /** Select the token that is drawn at a horizontal place, and follow the pointer. */
  drag(event) {
    if (event.button !== 0) return;
    this.element.setPointerCapture(event.pointerId);
    const go = (moved) => this.view.select(this.highestNear(this.shareOf(moved)));
    const stop = () => {
      this.element.removeEventListener("pointermove", go);
      this.element.removeEventListener("pointerup", stop);
      this.element.removeEventListener("pointercancel", stop);
    };
    this.element.addEventListener("pointermove", go);
    this.element.addEventListener("pointerup", stop);
    this.element.addEventListener("pointercancel", stop);
    go(event);
  }

  shareOf(event) {
    const box = this.canvas.getBoundingClientRect();
    return Math.min(1, Math.max(0, (event.clientX - box.left) / box.width));
  }

  /** Return the token whose bar is drawn there: the highest of those that share the pixel. */
  highestNear(share) {
    const { count } = this.view.tokens;
    const levels = levelsOf(this.view);
    const width = Math.max(1, this.canvas.clientWidth);
    const pixel = Math.min(width - 1, Math.floor(share * width));
    const first = Math.min(count - 1, Math.floor((pixel / width) * count));
    const end = Math.max(first + 1, Math.floor(((pixel + 1) / width) * count));
    let best = first;
    for (let i = first; i < end; i++) if (levels.height(i) > levels.height(best)) best = i;
    return best;
  }

  key(event) {
    const { view } = this;
    const { count } = view.tokens;
    const at = view.selected ?? 0;
    const far = Math.max(10, Math.round(count / 20));
    const moves = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: count - 1, PageDown: at + far, PageUp: at - far };
    if (!(event.key in moves) || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    event.stopPropagation();
    view.select(Math.min(count - 1, Math.max(0, moves[event.key])));
  }

  drawLater() {
    if (this.isWaiting) return;
    this.isWaiting = true;
    requestAnimationFrame(() => {
      this.isWaiting = false;
      this.draw();
    });
  }

  draw() {
    const width = this.element.clientWidth;
    if (!width) return;
    this.describe();
    const scale = window.devicePixelRatio || 1;
    const context = this.canvas.getContext("2d");
    const isOld = !this.base || !this.colors || this.metric !== this.view.metric || this.count !== this.view.tokens.count;
    if (isOld) this.drawBase(width, scale);
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, this.canvas.width, this.canvas.height);
    context.drawImage(this.base, 0, 0);
    context.setTransform(scale, 0, 0, scale, 0, 0);
    this.drawPlaces(context, width);
  }

  /** Draw bars and turns once; places are drawn over them at each scroll. */
  drawBase(width, scale) {
    this.metric = this.view.metric;
    this.count = this.view.tokens.count;
    this.colors ??= { levels: levelColors(this.element), ...this.themeColors() };
    this.canvas.width = Math.round(width * scale);
    this.canvas.height = Math.round((BARS + NUMBERS) * scale);
    this.base = document.createElement("canvas");
    this.base.width = this.canvas.width;
    this.base.height = this.canvas.height;
    const context = this.base.getContext("2d");
    context.setTransform(scale, 0, 0, scale, 0, 0);
    this.drawTurns(context, width);
    this.drawBars(context, width);
    this.drawInterventions(context, width);
  }

  themeColors() {
    const of = (name) => themeColor(this.element, name);
    return { line: of("--line"), muted: of("--muted"), wash: of("--wash"), accent: of("--accent"), bad: of("--bad"), drift: of("--drift") };
  }

  drawTurns(context, width) {
    const { turns } = this.view.document;
    const count = Math.max(1, this.count);
    context.font = "11px system-ui, sans-serif";
    context.textBaseline = "bottom";
    let free = -Infinity;
    turns.forEach((turn, at) => {
      const left = (turn.first_token / count) * width;
      const right = ((turn.first_token + turn.tokens) / count) * width;
      if (turns.length < BANDED_FROM) {
        context.fillStyle = this.colors.line;
        if (at > 0) context.fillRect(left, 0, 1, BARS + NUMBERS);
      } else if (at % 2 === 0) {
        context.fillStyle = this.colors.wash;
        context.fillRect(left, 0, right - left, BARS + NUMBERS);
      }
      const text = String(turn.turn);
      const wide = context.measureText(text).width;
      const x = left + 3;
      if (x < free || x + wide > width) return;
      context.fillStyle = this.colors.muted;
      context.fillText(text, x, BARS + NUMBERS - 1);
      free = x + wide + 8;
    });
  }

  drawBars(context, width) {
    const levels = levelsOf(this.view);
    const bins = Math.max(1, Math.min(this.count, Math.round(width * (window.devicePixelRatio || 1))));
    const wide = width / bins;
    const gap = wide >= 3 ? 1 : 0;
    for (let bin = 0; bin < bins; bin++) {
      const first = Math.floor((bin / bins) * this.count);
      const end = Math.max(first + 1, Math.floor(((bin + 1) / bins) * this.count));
      let [height, level] = [0, 0];
      for (let i = first; i < Math.min(end, this.count); i++) {
        const each = levels.height(i);
        if (each > height) [height, level] = [each, levels.levels[i]];
      }
      const tall = Math.max(height * (BARS - 3), 1);
      context.fillStyle = this.colors.levels[level];
      context.fillRect(bin * wide, BARS - tall, wide - gap, tall);
    }
    context.fillStyle = this.colors.line;
    context.fillRect(0, BARS, width, 1);
  }

  /** Draw a line under the tokens during which something acted inside the model. */
  drawInterventions(context, width) {
    context.fillStyle = this.colors.drift;
    for (const { spans } of this.view.document.interventions) {
      for (const { first_token: first, last_token: last } of spans) {
        if (first == null) continue;
        const left = (first / this.count) * width;
        const right = (((last ?? first) + 1) / this.count) * width;
        context.fillRect(left, BARS + 1, Math.max(2, right - left), 2);
      }
    }
  }

  drawPlaces(context, width) {
    const count = Math.max(1, this.count);
    const x = (index) => (index / count) * width;
    const visible = this.chunks.visible(this.element.getBoundingClientRect().bottom, window.innerHeight);
    if (visible) {
      const [left, right] = visible.map(x);
      context.globalAlpha = 0.14;
      context.fillStyle = this.colors.accent;
      context.fillRect(left, 0, Math.max(2, right - left), BARS);
      context.globalAlpha = 1;
      context.fillRect(left, BARS - 1, Math.max(2, right - left), 2);
    }
    context.fillStyle = this.colors.bad;
    for (const index of this.view.divergedTokens ?? []) context.fillRect(x(index) - 1, 0, 2.5, 7);
    const { selected } = this.view;
    if (selected === null) return;
    const center = x(selected + 0.5);
    context.fillStyle = this.colors.accent;
    context.fillRect(center - 0.75, 0, 1.5, BARS);
    context.beginPath();
    context.moveTo(center - 5, 0);
    context.lineTo(center + 5, 0);
    context.lineTo(center, 6);
    context.fill();
  }

  describe() {
    const { view } = this;
    const at = view.selected ?? 0;
    this.element.setAttribute("aria-valuemax", String(Math.max(0, view.tokens.count - 1)));
    this.element.setAttribute("aria-valuenow", String(at));
    const text = view.tokens.count ? `turn ${view.tokens.turn[at]}, token ${view.tokens.step[at]}` : "no tokens";
    this.element.setAttribute("aria-valuetext", text);
  }
}
