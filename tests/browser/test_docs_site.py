"""The site of the documentation in a browser: opened from disk, narrow, and without a network."""

from pathlib import Path

import pytest

from benchmarks.chromium import Chromium
from docs import make_site


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("docs")

    assert make_site.build(folder).returncode == 0
    return folder / "site"


def test_the_search_finds_a_section_of_a_page_that_is_opened_from_disk(
    chromium: Chromium, site: Path
) -> None:
    with chromium.open_page() as opened:
        page = opened.open(site / "index.html")
        page.get_by_role("button", name="Search").first.click()
        page.get_by_role("textbox").or_(page.get_by_role("combobox")).first.fill("how verify works")
        page.get_by_text("How verify works").first.click(timeout=20_000)
        page.wait_for_url("**/replay.html*")

        assert all(each.startswith("file:") for each in opened.requests)
        assert opened.messages == []


@pytest.mark.slow
def test_no_page_is_wider_than_a_phone(chromium: Chromium, site: Path) -> None:
    wide = {}
    with chromium.open_page(width=360, height=800, scheme="dark") as opened:
        for path in sorted(site.glob("*.html")):
            # That page is for a server: its links begin at the root.
            if path.name != "404.html":
                page = opened.open(path)
                wide[path.name] = page.evaluate("document.documentElement.scrollWidth")

    assert len(wide) > 25
    assert {name for name, width in wide.items() if width > 360} == set()
