// The page: chooses what to show by the kind of the document.
import { unpackDocument } from "./packed.js";
import { fill, h, recorded } from "./dom.js";
import { RunView } from "./run_view.js";
import { runHeader } from "./header.js";
import { runStrip } from "./strip.js";
import { runTranscript } from "./transcript.js";
import { tokenInspector } from "./inspector.js";
import { cachePanel } from "./cache_panel.js";
import { tracksPanel } from "./tracks_panel.js";
import { lineagePanel } from "./lineage_panel.js";
import { verdictsPanel } from "./verdicts_panel.js";
import { diffPage } from "./diff_page.js";
import { runsPage } from "./runs_page.js";
import { followLive, forgetToken, serverAnswer } from "./live.js";

const PANELS = [
  ["transcript", "Transcript", (view) => h("div", { class: "reading" },
    runStrip(view), h("div", { class: "columns" }, runTranscript(view), tokenInspector(view)))],
  ["cache", "Cache", cachePanel],
  ["inside", "Inside the model", tracksPanel],
  ["replays", "Replays", verdictsPanel],
  ["forks", "Forks", lineagePanel],
];

/** Return the page of a run. */
function runPage(view) {
  return h("main", null,
    runHeader(view),
    PANELS.map(([id, title, panel]) =>
      h("section", { id, "aria-labelledby": `${id}-title` },
        h("h2", { id: `${id}-title` }, title), panel(view))));
}

/** Return the document of the page: it carries it, or its server sends it. */
async function pageDocument(holder) {
  if (!holder.dataset.source) return unpackDocument(holder.textContent);
  forgetToken();
  return serverAnswer(holder.dataset.source);
}

async function start() {
  const app = document.getElementById("app");
  try {
    const shown = await pageDocument(document.getElementById("document"));
    if (shown.kind === "diff") fill(app, diffPage(shown));
    else if (shown.kind === "runs") fill(app, runsPage(shown));
    else {
      const view = new RunView(shown);
      fill(app, runPage(view));
      if (shown.served) followLive(view);
    }
  } catch (error) {
    fill(app, h("main", { role: "alert" },
      h("h1", null, "This page cannot be shown"), h("p", null, recorded(error.message))));
    throw error;
  }
}

await start();
