"""The pages can be read on a phone, in the dark, by keyboard and by a screen reader."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from benchmarks.chromium import Chromium, OpenedPage, Scheme
from tests.browser.conftest import DRAWN, check_quiet

pytestmark = pytest.mark.slow

NARROW, WIDE = 360, 1280
SEVERE = ("serious", "critical")
# What is hidden from sight on purpose, and what scrolls within itself, may be wider.
_BEYOND = """
() => [...document.querySelectorAll("body *")].filter((each) => {
  const box = each.getBoundingClientRect();
  if (!box.width || box.right <= innerWidth + 1 || each.closest("svg")) return false;
  for (let at = each.parentElement; at; at = at.parentElement) {
    if (getComputedStyle(at).overflowX !== "visible") return false;
  }
  return getComputedStyle(each).clipPath === "none";
}).map((each) => each.outerHTML.slice(0, 160)).slice(0, 5)
"""
_UNFOLD = "() => document.querySelectorAll('details').forEach((each) => { each.open = true; })"


def violations(page: Page) -> list[str]:
    """Return what axe-core holds to be a serious or critical fault of what is shown."""
    found: dict[str, Any] = Axe().run(page).response
    return [
        f"{each['id']} ({each['impact']}): {each['nodes'][0]['html'][:200]}\n"
        f"{each['nodes'][0].get('failureSummary', '')}"
        for each in found["violations"]
        if each["impact"] in SEVERE
    ]


def check_shown(page: Page) -> None:
    """Check what is shown of a page: no serious fault, and nothing beyond its right edge."""
    expect(page.locator("h1")).to_be_visible()
    assert violations(page) == []
    assert page.evaluate(_BEYOND) == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


@pytest.fixture(params=[NARROW, WIDE])
def width(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.fixture(params=get_args(Scheme))
def opened(chromium: Chromium, width: int, request: pytest.FixtureRequest) -> Iterator[OpenedPage]:
    with chromium.open_page(width=width, scheme=request.param) as found:
        yield found
        check_quiet(found)


def test_each_part_of_a_run_can_be_read(opened: OpenedPage, run_page: Path) -> None:
    page = opened.open(run_page, "#t2.s3")
    expect(page.get_by_role("complementary", name="Token inspector")).to_be_visible()
    check_shown(page)
    for tab in page.get_by_role("tab").all():
        tab.click()
        page.evaluate(_UNFOLD)
        page.evaluate(DRAWN)
        check_shown(page)


def test_the_list_of_keys_can_be_read(opened: OpenedPage, run_page: Path) -> None:
    page = opened.open(run_page)
    expect(page.get_by_role("button", name="Keys")).to_be_visible()
    page.keyboard.press("?")
    expect(page.get_by_role("dialog")).to_contain_text("least sure token")
    check_shown(page)
    page.get_by_role("button", name="Close").click()

    expect(page.get_by_role("dialog")).not_to_be_visible()


def test_a_diff_can_be_read(opened: OpenedPage, diff_page: Path) -> None:
    page = opened.open(diff_page)
    expect(page.get_by_role("heading", level=1)).to_be_visible()
    check_shown(page)
    page.evaluate(_UNFOLD)
    check_shown(page)


def test_a_hostile_run_fits_too(opened: OpenedPage, hostile_page: Path) -> None:
    page = opened.open(hostile_page)
    expect(page.get_by_role("heading", level=1)).to_be_visible()
    check_shown(page)


@pytest.mark.parametrize("scheme", get_args(Scheme))
@pytest.mark.parametrize("size", [NARROW, WIDE])
def test_served_pages_can_be_read(
    chromium: Chromium, served_url: str, scheme: Scheme, size: int
) -> None:
    with chromium.open_page(width=size, scheme=scheme) as found:
        found.visit(served_url)
        expect(found.page.get_by_role("heading", name="Runs")).to_be_visible()
        check_shown(found.page)
        found.page.get_by_role("link", name="probe").first.click()
        expect(found.page.get_by_role("heading", level=1, name="probe")).to_be_visible()
        check_shown(found.page)

        assert found.messages == []


def test_axe_finds_a_fault_that_is_there(opened: OpenedPage, tmp_path: Path) -> None:
    path = tmp_path / "faulty.html"
    path.write_text("<!doctype html><title>t</title><input><p style='width:9999px'>wide", "utf-8")
    page = opened.open(path)

    assert any(each.startswith("label (critical)") for each in violations(page))
    assert page.evaluate(_BEYOND) != []
