// The page of a run: its parts, and what ties them to the address and the pointer.
import { h } from "./dom.js";
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
  const bar = h("div", { class: "bar" }, tabs.bar, runStrip(view, chunks));
  tabs.onShow((id) => { bar.dataset.tab = id; });
  const element = h("main", { class: "run" }, currentHeader(view, dialog), bar, tabs.bodies, dialog);
  tabs.show("transcript");
  listenToPointer(view, element);
  listenToKeys(view, chunks, dialog);
  const address = new PageAddress(view, tabs);
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
  view.onUpdate((newer) => {
    view.divergedTokens = divergedTokens(newer);
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
  element.addEventListener("pointerover", (event) => event.pointerType === "mouse" && view.hover(tokenAt(event)));
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

/** The anchor in the address bar: written when a token is selected, followed when it changes. */
class PageAddress {
  constructor(view, tabs) {
    Object.assign(this, { view, tabs, wroteAt: -Infinity, isFollowing: false });
    tabs.onOpen((id) => this.write(`#${id}`));
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
    if (place?.index != null) {
      this.view.select(place.index);
    } else if (place) {
      this.goToTurn(place.turn);
    } else if (this.tabs.show(hash.slice(1)) && window.scrollY > 0) {
      document.querySelector(".bar").scrollIntoView();
    }
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
