// The page of a run: its parts, and what ties them to the address and the pointer.
import { fill, h, recorded } from "./dom.js";
import { Tabs } from "./tabs.js";
import { TokenChunks } from "./chunks.js";
import { runHeader } from "./header.js";
import { runStrip } from "./strip.js";
import { runTranscript } from "./transcript.js";
import { tokenInspector } from "./inspector.js";
import { helpDialog, listenToKeys } from "./keyboard.js";
import { cachePanel } from "./cache_panel.js";
import { tracksPanel } from "./tracks_panel.js";
import { lineagePanel } from "./lineage_panel.js";
import { verdictsPanel } from "./verdicts_panel.js";

// Selections that follow each other faster share an entry of the history, so that "back" goes far enough.
const QUICK_MS = 1500;

/** Return the page of a run; call `start` on it when it is in the document. */
export function runPage(view) {
  view.divergedTokens = divergedTokens(view.document);
  view.onUpdate((newer) => { view.divergedTokens = divergedTokens(newer); });
  view.selected ??= view.document.highlights.least_sure_token;
  const chunks = new TokenChunks(view);
  const dialog = helpDialog();
  const tabs = new Tabs([
    { id: "transcript", title: "Transcript", make: () => readingPanel(view, chunks) },
    { id: "cache", title: "Cache", make: () => titled("Cache", cachePanel(view)) },
    { id: "inside", title: "Inside the model", make: () => titled("Inside the model", tracksPanel(view)) },
    { id: "replays", title: "Replays", make: () => titled("Replays", verdictsPanel(view)) },
    { id: "forks", title: "Forks", make: () => titled("Forks", lineagePanel(view)) },
  ]);
  const note = h("p", { class: "address-note", role: "status" });
  const bar = h("div", { class: "bar" }, tabs.bar, runStrip(view, chunks), note);
  tabs.onShow((id) => { bar.dataset.tab = id; });
  const element = h("main", { class: "run" }, currentHeader(view, dialog), bar, tabs.bodies, dialog);
  tabs.show("transcript");
  listenToPointer(view, element);
  listenToKeys(view, chunks, dialog);
  const places = new PanelPlaces(tabs, bar);
  const address = new PageAddress(view, tabs, places, note);
  showSelected(view, chunks, tabs, address);
  element.start = () => address.follow();
  return element;
}

function readingPanel(view, chunks) {
  return h("div", { class: "columns" },
    h("h2", { class: "offscreen" }, "Transcript"), runTranscript(view, chunks), tokenInspector(view));
}

/** Return the head of the page, which is made again when the run has grown. */
function currentHeader(view, dialog) {
  const make = () => runHeader(view, { help: () => dialog.showModal() });
  let header = make();
  view.onUpdate(() => {
    const next = make();
    next.querySelector(".about").open = header.querySelector(".about").open;
    header.replaceWith(next);
    header = next;
  });
  return header;
}

function titled(title, panel) {
  return h("div", { class: "panel-body" }, h("h2", null, title), panel);
}

/** Return the tokens at which a stored replay left the recording. */
function divergedTokens(shown) {
  const found = shown.verdicts.filter((each) => !each.label).flatMap((each) => each.divergences);
  return new Set(found.map((each) => each.token).filter((token) => token != null));
}

function listenToPointer(view, element) {
  const tokenAt = (event) => {
    const span = event.target.closest?.("[data-token]");
    return span ? Number(span.dataset.token) : null;
  };
  element.addEventListener("pointerover", (event) => {
    if (event.pointerType !== "mouse") return;
    const token = tokenAt(event);
    // Between two tokens the last one stays shown.
    if (token !== null || !event.target.closest?.(".chunk")) view.hover(token);
  });
  element.addEventListener("pointerleave", () => view.hover(null));
  element.addEventListener("click", (event) => {
    const token = tokenAt(event);
    if (token === null || !getSelection().isCollapsed) return;
    view.select(token, { jump: false });
    event.target.closest(".reply")?.focus({ preventScroll: true });
  });
}

/** Mark the selected token, scroll to it if it was jumped to, and write it into the address. */
function showSelected(view, chunks, tabs, address) {
  let marked = null;
  view.onSelect((index, jump) => {
    marked?.classList.remove("selected");
    if (index === null) return;
    if (jump) {
      tabs.show("transcript");
      view.buildTranscript(view.turnOf(index).turn);
    }
    marked = chunks.spanOf(index);
    if (!marked) return;
    marked.classList.add("selected");
    for (const reply of document.querySelectorAll(".reply[tabindex='0']")) reply.tabIndex = -1;
    marked.closest(".reply").tabIndex = 0;
    if (jump) scrollToToken(marked, chunks, index);
    address.write(view.hashOf(index));
  });
}

function scrollToToken(span, chunks, index) {
  const isSeen = () => {
    const box = span.getBoundingClientRect();
    return box.height > 0 && box.top > barBottom() + 8 && box.bottom < window.innerHeight - 24;
  };
  if (isSeen()) return;
  span.scrollIntoView({ block: "center" });
  // Blocks that come near the screen get their true heights: look again when they have them.
  requestAnimationFrame(() => {
    const now = chunks.spanOf(index);
    if (now && !isSeen()) now.scrollIntoView({ block: "center" });
  });
}

function barBottom() {
  return document.querySelector(".bar")?.getBoundingClientRect().bottom ?? 0;
}

/** Where each panel was read: a tab leads back there, or to the begin of its panel. */
class PanelPlaces {
  constructor(tabs, bar) {
    Object.assign(this, { tabs, bar, places: new Map() });
    tabs.onLeave((id) => this.keep(id));
    tabs.onOpen((id) => this.restore(id));
  }

  /** Return whether the head of the page is out of view. */
  isDeep() {
    return this.bar.isConnected && this.bar.previousElementSibling.getBoundingClientRect().bottom < 0;
  }

  keep(id) {
    this.places.delete(id);
    this.wasDeep = id !== null && this.isDeep();
    if (!this.wasDeep) return;
    const box = this.bar.getBoundingClientRect();
    const seen = document.elementFromPoint(box.left + box.width / 4, box.bottom + 4);
    if (!document.getElementById(id).contains(seen)) return;
    // The spans of tokens are made again, their blocks are not.
    const element = seen.closest(".chunk, .row, .turn") ?? seen;
    this.places.set(id, { element, top: element.getBoundingClientRect().top });
  }

  restore(id) {
    const place = this.places.get(id);
    if (!place?.element.isConnected) {
      if (this.wasDeep) this.begin();
      return;
    }
    const move = () => window.scrollBy({ top: place.element.getBoundingClientRect().top - place.top, behavior: "instant" });
    move();
    // What is near the screen gets its true height only then.
    requestAnimationFrame(move);
  }

  /** Scroll to the begin of the panel: the bar is at the top of the screen. */
  begin() {
    const head = this.bar.previousElementSibling.getBoundingClientRect();
    window.scrollTo({ top: window.scrollY + head.bottom, behavior: "instant" });
  }
}

/** The anchor in the address bar: written when a token is selected, followed when it changes. */
class PageAddress {
  constructor(view, tabs, places, note) {
    Object.assign(this, { view, tabs, places, note, wroteAt: -Infinity, isFollowing: false });
    tabs.onOpen((id) => this.write(`#${id}`));
    view.onSelect(() => fill(note));
  }

  /** Write an anchor, with an entry in the history unless the last one is a moment ago. */
  write(hash) {
    if (location.hash === hash || this.isFollowing) return;
    const now = performance.now();
    const isQuick = now - this.wroteAt < QUICK_MS;
    this.wroteAt = now;
    try {
      if (isQuick) history.replaceState(null, "", hash);
      else history.pushState(null, "", hash);
    } catch {
      // A page in a frame of a notebook has no address.
    }
  }

  /** Go where the address says, now and when it changes. */
  follow() {
    const go = () => {
      this.isFollowing = true;
      this.go(location.hash);
      this.isFollowing = false;
    };
    window.addEventListener("hashchange", go);
    window.addEventListener("popstate", go);
    if (location.hash.length > 1) go();
  }

  go(hash) {
    const place = this.view.placeOf(hash);
    fill(this.note);
    if (place?.index != null) {
      this.view.select(place.index);
    } else if (place) {
      this.goToTurn(place.turn);
    } else if (this.tabs.show(hash.slice(1)) && window.scrollY > 0) {
      this.places.begin();
    }
    const missing = this.missing(hash, place);
    if (missing) fill(this.note, recorded(missing));
  }

  /** Return a sentence about what an anchor names and the page does not have, null if it has it. */
  missing(hash, place) {
    const [, turn, step] = /^#t(\d+)(?:\.s(\d+))?$/.exec(hash) ?? [];
    if (turn !== undefined && !place) return `The address names turn ${turn}, which this run does not have.`;
    if (step !== undefined && place.index === null) {
      const { first_token: first, tokens } = this.view.turns.get(place.turn);
      const steps = [first, first + tokens - 1].map((index) => this.view.tokens.step[index]);
      return `The address names token ${step} of turn ${turn}, which has ${tokens ? `tokens ${steps.join(" to ")}` : "no tokens"}.`;
    }
    if (hash.length < 2 || place || document.getElementById(hash.slice(1))) return null;
    return `The address ends in ${hash.slice(0, 60)}, which names nothing on this page.`;
  }

  goToTurn(number) {
    this.tabs.show("transcript");
    this.view.buildTranscript(number);
    const turn = this.view.turns.get(number);
    if (turn.tokens) this.view.select(turn.first_token, { jump: false });
    const article = document.getElementById(`t${number}`);
    article.scrollIntoView({ block: "start" });
    // What is near the screen gets its true height only then.
    requestAnimationFrame(() => article.scrollIntoView({ block: "start" }));
    article.focus({ preventScroll: true });
  }
}
