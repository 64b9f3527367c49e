"""A recording is a stranger's file: its texts are shown, and nothing of them runs."""

from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

import tokentape as tt
from benchmarks.chromium import Chromium
from tests.browser.conftest import DRAWN, check_quiet
from tests.browser.hostile_runs import (
    ATTACKS,
    HUGE,
    SCRIPT,
    record_hostile_events,
)
from tokentape.replay.view.diff_document import diff_document
from tokentape.replay.view.document import view_document
from tokentape.replay.view.page import view_page

# Whatever else is in the page was made from a text of the recording.
_OUR_ELEMENTS = """
() => {
  const ours = new Set([
    "a", "article", "aside", "b", "body", "button", "canvas", "caption", "circle", "code",
    "col", "colgroup", "dd", "del", "details", "dialog", "div", "dl", "dt", "em", "fieldset",
    "figcaption", "figure", "footer", "form", "g", "h1", "h2", "h3", "h4", "h5", "head",
    "header", "hr", "html", "i", "input", "ins", "kbd", "label", "legend", "li", "line",
    "link", "main", "mark", "meta", "nav", "noscript", "ol", "option", "output", "p", "path",
    "polyline", "pre", "rect", "s", "script", "search", "section", "select", "small", "span",
    "strong", "style", "summary", "svg", "table", "tbody", "td", "text", "th", "thead",
    "time", "title", "tr", "ul",
  ]);
  const all = [...document.querySelectorAll("*")];
  return {
    others: all.map((each) => each.localName).filter((name) => !ours.has(name)),
    scripts: document.scripts.length,
    styles: document.querySelectorAll("style").length,
    handlers: all.flatMap((each) => each.getAttributeNames()).filter((name) => /^on/.test(name)),
    links: all.map((each) => each.getAttribute("href") ?? each.getAttribute("src"))
      .filter((link) => link !== null && !/^#[\\w.-]*$/.test(link)),
    policies: document.querySelectorAll("meta[http-equiv]").length,
  };
}
"""
_CLEAN = {
    "others": [],
    "scripts": 2,
    "styles": 1,
    "handlers": [],
    # The icon: a page without one has it requested by the browser.
    "links": ["data:,"],
    "policies": 1,
}


def unfold_all(page: Page) -> str:
    """Visit each part of the page, unfold what is folded, and return all that is seen."""
    seen = []
    for tab in page.get_by_role("tab").all():
        tab.click()
        for _ in range(20):
            folded = page.locator("details:not([open]) > summary:visible")
            if not folded.count():
                break
            folded.first.click()
        else:
            pytest.fail("there is always something folded")
        page.evaluate(DRAWN)
        seen.append(page.locator("body").inner_text())
    return "\n".join(seen)


def test_attacks_are_shown_as_text_and_run_nothing(chromium: Chromium, hostile_page: Path) -> None:
    with chromium.open_page() as opened:
        page = opened.open(hostile_page)
        expect(page.get_by_role("heading", level=1)).to_contain_text(SCRIPT)
        # The reply of the model.
        expect(page.get_by_role("group", name="Reply of turn 1")).to_contain_text(
            SCRIPT + ATTACKS[1]
        )
        expect(page.get_by_role("article", name="Turn 2").get_by_text(SCRIPT).first).to_be_visible()
        shown = unfold_all(page)

        assert page.evaluate(_OUR_ELEMENTS) == _CLEAN
        assert SCRIPT in page.title()
        check_quiet(opened)
    for attack in ATTACKS[1:6]:
        assert attack in shown
    # Bidirectional controls, blanks and controls are spelled, as on a terminal.
    assert "\\u202eright to left\\u2066 \\u200b\\x00\\x1b[2J\\r\\u2028" in shown
    assert not {"\u202e", "\u2066", "\u200b", "\0", "\x1b", "\u2028"} & set(shown)
    # A letter carries two marks at most.
    assert "e\u0301\u0301\\u0301" in shown
    assert shown.count("\u0301") < 100
    assert shown.count(SCRIPT) > HUGE // len(SCRIPT)


@pytest.mark.slow
def test_every_field_of_every_event_is_shown_as_text(
    chromium: Chromium, make_lm: Callable[..., tt.LoadedModel], tmp_path: Path
) -> None:
    lm = make_lm("llama", max_position_embeddings=1024)
    path = record_hostile_events(lm, tmp_path / "recorded.db")
    with tt.open_store(path) as store:
        hostile = [each.run_id for each in store.summaries() if each.run_id.startswith("ffff")]
        recordings = [store.recording(run_id) for run_id in hostile]
        documents = [view_document(each) for each in recordings]
        documents += [diff_document(recordings[0], each) for each in recordings[1:]]
    assert len(documents) > 4
    for index, document in enumerate(documents):
        page_path = tmp_path / f"{index}.html"
        page_path.write_text(view_page(document), encoding="utf-8")
        with chromium.open_page() as opened:
            page = opened.open(page_path)
            expect(page.get_by_role("heading", level=1)).to_be_visible()
            seen = unfold_all(page) or page.locator("body").inner_text()

            assert SCRIPT in seen
            assert page.evaluate(_OUR_ELEMENTS) == _CLEAN
            check_quiet(opened)
