"""The page in the frame that a notebook shows: it has no address and no rights."""

from pathlib import Path

import tokentape as tt
from benchmarks.chromium import OpenedPage
from tests.browser.probe import Probe


def test_the_page_in_a_frame_follows_its_anchors_and_leaves_the_notebook_alone(
    opened: OpenedPage, probe: Probe, tmp_path: Path
) -> None:
    with tt.open_store(probe.url) as store:
        frame = tt.view(store.recording(probe.run_id), store=store)._repr_html_()
    notebook = tmp_path / "notebook.html"
    notebook.write_text(f"<!doctype html><meta charset=utf-8><p>cell</p>{frame}", encoding="utf-8")

    page = opened.open(notebook)
    inside = page.frame_locator("iframe")
    inside.get_by_role("tab", name="Cache").click()
    inside.get_by_role("link", name="turn 2").first.click()

    turn = inside.locator("#t2")
    turn.wait_for()
    assert turn.evaluate("element => element.getBoundingClientRect().top < innerHeight")
    assert page.frames[1].url.startswith("about:srcdoc#t2")
    assert page.url == notebook.resolve().as_uri()
    assert page.frames[1].evaluate("window.origin") == "null"
