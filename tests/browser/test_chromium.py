"""The browser of the tests: what is noticed of a page, and what is said where there is none."""

import sys
from pathlib import Path

import pytest

from benchmarks.chromium import VARIABLE, Chromium, NoBrowserError, open_chromium

_PAGE = """<!doctype html><title>first time</title><img src="http://nowhere.invalid/x.png">
<script>
if (localStorage.was) document.title = "again";
localStorage.was = "here";
alert(1);
later();
</script>"""


def test_requests_errors_and_dialogs_of_a_page_are_noticed_and_forgotten_with_it(
    chromium: Chromium, tmp_path: Path
) -> None:
    path = tmp_path / "page.html"
    path.write_text(_PAGE, encoding="utf-8")
    with chromium.open_page(width=360, scheme="dark") as opened:
        page = opened.open(path)
        dark = page.evaluate("matchMedia('(prefers-color-scheme: dark)').matches")

        assert [page.evaluate("innerWidth"), dark] == [360, True]
        assert opened.requests == [path.as_uri(), "http://nowhere.invalid/x.png"]
        assert "error: dialog: alert 1" in opened.messages
        assert any("later is not defined" in each for each in opened.messages)
    with chromium.open_page() as opened:
        empty = opened.page

        assert [empty.url, empty.evaluate("innerWidth"), empty.title()] == ["about:blank", 1280, ""]
        assert [opened.requests, opened.messages] == [[], []]
        assert opened.open(path).title() == "first time"


def test_a_browser_that_is_named_but_missing_is_an_error_and_no_reason_to_take_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(VARIABLE, "/no/such/chromium")

    with pytest.raises(NoBrowserError, match="TOKENTAPE_BROWSER names no program: /no/such"):
        open_chromium().__enter__()


def test_where_there_is_no_browser_the_reason_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setitem(sys.modules, "PySide6", None)

    with pytest.raises(NoBrowserError, match="the extra `browser`, which brings one"):
        open_chromium().__enter__()
