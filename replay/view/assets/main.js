// The page: chooses what to show by the kind of the document.
import { unpackDocument } from "./packed.js";
import { fill, h, recorded } from "./dom.js";
import { RunView } from "./run_view.js";
import { diffPage } from "./diff_page.js";
import { runsPage } from "./runs_page.js";
import { followLive, forgetToken, serverAnswer } from "./live.js";
import { applyTheme } from "./theme.js";
import { runPage } from "./run_page.js";

/** Return the document of the page: it carries it, or its server sends it. */
async function pageDocument(holder) {
  if (!holder.dataset.source) return unpackDocument(holder.textContent);
  forgetToken();
  return serverAnswer(holder.dataset.source);
}

function showPage(app, shown) {
  if (shown.format !== "tokentape-view" || shown.version !== 1) {
    throw new Error("this is a document of another version of tokentape");
  }
  if (shown.kind === "diff") {
    fill(app, diffPage(shown));
  } else if (shown.kind === "runs") {
    fill(app, runsPage(shown));
  } else {
    const view = new RunView(shown);
    const page = runPage(view);
    fill(app, page);
    page.start();
    if (shown.served) followLive(view);
  }
}

/** Let anchors work in a frame of a notebook, where they would lead to the page around it. */
function keepAnchorsInFrame() {
  if (!document.URL.startsWith("about:srcdoc")) return;
  document.addEventListener("click", (event) => {
    const anchor = event.target.closest?.("a[href^='#']");
    if (!anchor) return;
    event.preventDefault();
    location.hash = anchor.getAttribute("href");
  });
}

async function startPage() {
  const app = document.getElementById("app");
  keepAnchorsInFrame();
  applyTheme();
  try {
    showPage(app, await pageDocument(document.getElementById("document")));
  } catch (error) {
    fill(app, h("main", { class: "failed", role: "alert" },
      h("h1", null, "This page cannot be shown"), h("p", null, recorded(error.message))));
    throw error;
  }
}

await startPage();
