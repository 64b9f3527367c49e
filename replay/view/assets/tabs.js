// Panels of which one is shown; the others stay findable by the browser's search, and print.
import { h } from "./dom.js";

/** The tabs of a page. `panels`: `{id, title, make}`; a panel is made when it is first shown. */
export class Tabs {
  constructor(panels) {
    this.panels = panels.map((panel) => ({ ...panel, tab: this.tabOf(panel), body: this.bodyOf(panel), isMade: false }));
    this.bar = h("div", { class: "tabs", role: "tablist", "aria-label": "Parts of this page" }, this.panels.map((each) => each.tab));
    this.bar.addEventListener("keydown", (event) => this.key(event));
    this.listeners = [];
    this.shown = [];
    this.leaving = [];
    this.current = null;
    window.addEventListener("beforeprint", () => this.panels.forEach((each) => this.make(each)));
  }

  get bodies() {
    return this.panels.map((each) => each.body);
  }

  tabOf({ id, title }) {
    return h("button", { type: "button", role: "tab", id: `tab-${id}`, "aria-controls": id, onclick: () => this.open(id) }, title);
  }

  bodyOf({ id }) {
    const body = h("section", { id, role: "tabpanel", "aria-labelledby": `tab-${id}`, class: "tab-panel" });
    body.addEventListener("beforematch", () => this.show(id));
    return body;
  }

  make(panel) {
    if (panel.isMade) return;
    panel.isMade = true;
    panel.body.append(panel.make());
  }

  /** Show a panel; return whether there is one of this id. */
  show(id) {
    const chosen = this.panels.find((each) => each.id === id);
    if (!chosen) return false;
    if (id === this.current) return true;
    for (const listener of this.leaving) listener(this.current);
    this.current = id;
    for (const each of this.panels) {
      const isChosen = each === chosen;
      each.tab.setAttribute("aria-selected", String(isChosen));
      each.tab.tabIndex = isChosen ? 0 : -1;
      if (isChosen) each.body.removeAttribute("hidden");
      else each.body.setAttribute("hidden", "until-found");
    }
    this.make(chosen);
    for (const listener of this.shown) listener(id);
    return true;
  }

  /** Show a panel as a click on its tab does: with an entry in the history. */
  open(id) {
    this.show(id);
    for (const listener of this.listeners) listener(id);
  }

  onOpen(listener) {
    this.listeners.push(listener);
  }

  /** Call `listener(id)` whenever a panel is shown. */
  onShow(listener) {
    this.shown.push(listener);
  }

  /** Call `listener(id)` before a panel is no longer shown; `id` is null for the first one. */
  onLeave(listener) {
    this.leaving.push(listener);
  }

  key(event) {
    const at = this.panels.findIndex((each) => each.tab === event.target);
    const count = this.panels.length;
    const next = { ArrowRight: (at + 1) % count, ArrowLeft: (at - 1 + count) % count, Home: 0, End: count - 1 }[event.key];
    if (at < 0 || next === undefined) return;
    event.preventDefault();
    this.open(this.panels[next].id);
    this.panels[next].tab.focus({ preventScroll: true });
  }
}
