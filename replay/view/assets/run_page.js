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

/** Return the page of a run; call `start` on it when it is in the document. */
export function runPage(view) {
  view.divergedTokens = divergedTokens(view.document);
  const chunks = new TokenChunks(view);
  const dialog = helpDialog();
  if (view.selected === null && view.document.highlights.least_sure_token != null) {
    view.selected = view.document.highlights.least_sure_token;
  }
  const strip = view.tokens.count ? runStrip(view, chunks) : null;
  const reading = () => h("div", { class: "columns" }, runTranscript(view, chunks), tokenInspector(view));
  const tabs = new Tabs([
    { id: "transcript", title: "Transcript", make: reading },
    { id: "cache", title: "Cache", make: () => titled("Cache", cachePanel(view)) },
    { id: "inside", title: "Inside the model", make: () => titled("Inside the model", tracksPanel(view)) },
    { id: "replays", title: "Replays", make: () => titled("Replays", verdictsPanel(view)) },
    { id: "forks", title: "Forks", make: () => titled("Forks", lineagePanel(view)) },
  ]);
  const bar = h("div", { class: "bar" }, tabs.bar, strip);
  tabs.onShow((id) => { bar.dataset.tab = id; });
  const element = h("main", { class: "run" },
    runHeader(view, { help: () => dialog.showModal() }), bar, tabs.bodies, dialog);
  tabs.show("transcript");
  listenToPointer(view, element);
  listenToKeys(view, chunks, dialog);
  showSelected(view, chunks, tabs);
  element.start = () => followAddress(view, chunks, tabs);
  return element;
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
function showSelected(view, chunks, tabs) {
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
    writeAddress(view.hashOf(index));
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

// A second selection within a moment replaces the entry of the first, so that "back" goes far enough.
let addressTime = 0;

function writeAddress(hash) {
  if (location.hash === hash) return;
  const now = performance.now();
  const isQuick = now - addressTime < 1500;
  addressTime = now;
  try {
    if (isQuick) history.replaceState(null, "", hash);
    else history.pushState(null, "", hash);
  } catch {
    // A page in a frame of a notebook has no address of its own.
  }
}

/** Go where the address says, now and when it changes. */
function followAddress(view, chunks, tabs) {
  const go = () => {
    const place = view.placeOf(location.hash);
    if (place?.index != null) {
      view.select(place.index);
    } else if (place) {
      tabs.show("transcript");
      view.buildTranscript(place.turn);
      const article = document.getElementById(`t${place.turn}`);
      article?.scrollIntoView({ block: "start" });
      requestAnimationFrame(() => article?.scrollIntoView({ block: "start" }));
      article?.focus({ preventScroll: true });
    } else if (location.hash.length > 1) {
      if (tabs.show(location.hash.slice(1)) && window.scrollY > 0) document.querySelector(".bar").scrollIntoView();
    }
  };
  tabs.onOpen((id) => writeAddress(`#${id}`));
  window.addEventListener("hashchange", go);
  window.addEventListener("popstate", go);
  if (location.hash.length > 1) go();
}
