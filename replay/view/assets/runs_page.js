// The page of all runs of a store.
import { counted, instant, whole } from "./numbers.js";
import { fill, h, recorded } from "./dom.js";
import { serverAnswer } from "./live.js";
import { themeSwitch } from "./theme.js";

const LIST_POLL_MS = 5000;
const TYPING_MS = 350;
const LISTED = 100;
const SHOWN_ID = /^[\w.~-]{1,200}$/;
const FIELDS = [
  ["said", "Said by anyone", "a text"],
  ["name", "Name", "part, or a*b?"],
  ["model", "Model", "part, or a*b?"],
  ["plan", "Plan", "part, or a*b?"],
  ["tag", "Tag", "a tag"],
  ["since", "Since", "date, or 2d"],
  ["until", "Until", "date, or 2d"],
];
const COLUMNS = ["Compare", "Run", "Status", "Model", "Started", "Turns", "Tokens", "Tags and note"];
const STATUSES = ["", "running", "finished", "interrupted", "failed"];

/** Return the page of the runs of a served store; `runsDocument` is what the server sent. */
export function runsPage(runsDocument) {
  const list = new RunsList(runsDocument);
  list.begin();
  return list.element;
}

/** The list with its filters: it asks the server again when they change, and now and then. */
class RunsList {
  constructor(shown) {
    this.chosen = new Set();
    this.rows = new Map();
    this.limit = LISTED;
    this.asked = 0;
    this.form = h("form", { class: "filters", role: "search", "aria-label": "Filter runs" },
      FIELDS.map(([name, label, hint]) => h("label", null, label,
        h("input", { name, type: "search", placeholder: hint, autocomplete: "off" }))),
      h("label", null, "Status", h("select", { name: "status" },
        STATUSES.map((status) => h("option", { value: status }, status || "any")))),
      h("button", { type: "reset" }, "Clear"));
    this.count = h("p", { class: "count", role: "status" });
    this.compare = h("p", { class: "compare", "aria-live": "polite" });
    this.body = h("tbody", { role: "rowgroup" });
    this.more = h("p");
    this.element = h("main", { class: "runs" },
      h("div", { class: "headline" }, h("h1", null, "Runs"), h("div", { class: "tools" }, themeSwitch())),
      h("p", { class: "muted" }, recorded(shown.where),
        shown.served?.model && [" · model loaded: ", recorded(shown.served.model)]),
      this.form, this.count, this.compare,
      h("div", { class: "scrolled", tabindex: 0, role: "region", "aria-label": "Runs" },
        h("table", { class: "data cards list", role: "table" }, h("thead", { role: "rowgroup" }, h("tr", { role: "row" },
          COLUMNS.map((title) => h("th", { scope: "col", role: "columnheader", class: isNumber(title) ? "n" : "" }, title)))),
        this.body)),
      this.more);
    document.title = "Runs · tokentape";
    this.shown = shown;
  }

  /** Draw the list and begin to follow it. */
  begin() {
    for (const [name, value] of new URLSearchParams(location.search)) {
      const field = this.form.elements.namedItem(name);
      if (field) field.value = value;
    }
    this.draw(this.shown);
    let typing = 0;
    const later = () => { clearTimeout(typing); typing = setTimeout(() => this.ask(), TYPING_MS); };
    this.form.addEventListener("input", later);
    this.form.addEventListener("reset", () => setTimeout(() => this.ask(), 0));
    this.form.addEventListener("submit", (event) => { event.preventDefault(); this.ask(); });
    if (this.query().toString()) this.ask();
    setTimeout(() => this.follow(), LIST_POLL_MS);
  }

  query() {
    const query = new URLSearchParams();
    for (const [name, value] of new FormData(this.form)) if (value.trim()) query.append(name, value.trim());
    return query;
  }

  /** Ask the server for the runs that the filters select; only the newest question counts. */
  async ask({ isAsked = true } = {}) {
    const question = isAsked ? ++this.asked : this.asked;
    const query = this.query();
    if (isAsked) history.replaceState(null, "", query.toString() ? `/?${query}` : "/");
    query.set("last", this.limit);
    try {
      const shown = await serverAnswer(`/api/runs?${query}`);
      if (question === this.asked) this.draw(shown);
    } catch (error) {
      if (question === this.asked) fill(this.count, h("span", { class: "bad" }, recorded(error.message)));
      return error.status;
    }
    return 200;
  }

  async follow() {
    const began = performance.now();
    if (!document.hidden) await this.ask({ isAsked: false });
    setTimeout(() => this.follow(), Math.max(LIST_POLL_MS, 10 * (performance.now() - began)));
  }

  draw(shown) {
    const rows = shown.runs.map((run) => this.row(run));
    // Rows that are there already stay, with the focus in them.
    if (rows.some((row, index) => this.body.children[index] !== row) || rows.length !== this.body.children.length) {
      fill(this.body, rows);
    }
    const isFiltered = Object.keys(shown.query).length > 0;
    const text = shown.count
      ? `${counted(shown.count, "run")}${isFiltered ? " found" : ""}${shown.count > 1 ? ", the newest first" : ""}`
      : isFiltered ? "No run matches." : "This store holds no run yet.";
    if (this.count.textContent !== text) fill(this.count, text);
    const hidden = shown.count - shown.runs.length;
    fill(this.more, hidden > 0 && h("button", { type: "button", onclick: () => {
      this.limit *= 4;
      this.ask();
    } }, `Show older runs (${whole(hidden)})`));
    this.drawCompare();
  }

  /** Return the row of a run: the one that is there already if nothing in it has changed. */
  row(run) {
    const text = JSON.stringify(run);
    const known = this.rows.get(run.run_id);
    if (known?.text === text) return known.row;
    const row = this.newRow(run);
    this.rows.set(run.run_id, { text, row, startedAt: run.started_at_us });
    return row;
  }

  newRow(run) {
    const isLinked = SHOWN_ID.test(run.run_id);
    const title = [h("span", { class: "name" }, recorded(run.name || "(no name)")), " ",
      h("span", { class: "id" }, recorded(run.run_id))];
    const from = run.parent_run_id && h("div", { class: "muted" },
      "fork", run.forked_at_turn != null && ` at turn ${run.forked_at_turn}`, " of ",
      recorded(run.parent_run_id));
    const box = isLinked && h("input", {
      type: "checkbox", checked: this.chosen.has(run.run_id),
      "aria-label": `Compare run ${run.name} ${run.run_id}`,
      onchange: (event) => this.choose(run.run_id, event.currentTarget),
    });
    const cells = [
      box,
      [isLinked ? h("a", { href: `/run/${run.run_id}` }, title) : title, from],
      [recorded(run.status), run.tool_errors > 0 && h("div", { class: "muted" }, counted(run.tool_errors, "tool error"))],
      recorded(run.model),
      instant(run.started_at_us),
      ownCount(run, run.turns),
      ownCount(run, run.tokens),
      [run.tags.map((tag) => [h("span", { class: "tag" }, recorded(tag)), " "]),
        run.note && h("div", { class: "muted" }, recorded(run.note))],
    ];
    return h("tr", { role: "row" }, cells.map((content, at) => h("td", {
      role: "cell", class: `${isNumber(COLUMNS[at]) ? "n" : ""} ${COLUMNS[at] === "Run" ? "wide" : ""}`, "data-label": COLUMNS[at],
    }, content)));
  }

  choose(runId, box) {
    if (!box.checked) this.chosen.delete(runId);
    else if (this.chosen.size < 2) this.chosen.add(runId);
    else box.checked = false;
    this.drawCompare();
  }

  drawCompare() {
    // The older run first, as `tokentape diff` has them: a fork is compared with its parent.
    const startedAt = (runId) => this.rows.get(runId).startedAt;
    const [a, b] = [...this.chosen].sort((one, other) => startedAt(one) - startedAt(other));
    if (b) fill(this.compare, h("a", { href: `/diff?a=${a}&b=${b}` }, "Compare the two chosen runs"));
    else fill(this.compare, a ? "One run is chosen: choose another to compare them." : "");
  }
}

function isNumber(title) {
  return title === "Turns" || title === "Tokens";
}

/** Return a number of a run as text; that of a fork is without the turns that it shares. */
function ownCount(run, count) {
  return run.has_shared_turns ? `${whole(count)} own` : whole(count);
}
