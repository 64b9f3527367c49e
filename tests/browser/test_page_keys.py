"""The page of a run by keyboard, by link, and coloured by each measure."""

import re
from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page, expect

from benchmarks.chromium import OpenedPage

pytestmark = pytest.mark.slow


@pytest.fixture
def page(opened: OpenedPage, run_page: Path) -> Page:
    return opened.open(run_page)


def inspector(page: Page) -> Locator:
    return page.get_by_role("complementary", name="Token inspector")


def test_a_link_leads_to_its_turn_and_token(opened: OpenedPage, run_page: Path) -> None:
    page = opened.open(run_page, "#t2.s3")
    expect(inspector(page)).to_contain_text("Turn 2, token 3")
    expect(page.get_by_role("group", name="Reply of turn 2")).to_be_in_viewport()
    page.evaluate("location.hash = '#t4.s1'")

    expect(inspector(page)).to_contain_text("Turn 4, token 1")


def test_the_keys_go_to_tokens_turns_and_candidates(opened: OpenedPage, run_page: Path) -> None:
    page = opened.open(run_page, "#t2.s3")
    expect(inspector(page)).to_contain_text("Turn 2, token 3")
    for key, place in (
        ("ArrowRight", "Turn 2, token 4"),
        ("ArrowLeft", "Turn 2, token 3"),
        ("n", "Turn 3, token 0"),
        ("p", "Turn 2, token 0"),
    ):
        page.keyboard.press(key)
        expect(inspector(page)).to_contain_text(place)
    page.keyboard.press("Enter")
    page.keyboard.press("ArrowDown")

    expect(inspector(page).get_by_role("radio", checked=True)).to_be_focused()


def test_each_measure_can_be_chosen_by_keyboard(page: Page) -> None:
    colours = set()
    page.get_by_role("radio", name="Surprise", exact=True).focus()
    for name in ("Entropy", "Top-two gap", "Time", "Surprise"):
        page.keyboard.press("ArrowRight")
        expect(page.get_by_role("radio", name=re.compile(f"^{name}"))).to_be_checked()
        reply = page.get_by_role("group", name="Reply of turn 1")
        colours.add(
            reply.evaluate(
                "(each) => [...each.querySelectorAll('[data-token]')]"
                ".map((token) => getComputedStyle(token).backgroundColor).join()"
            )
        )
    assert len(colours) == 4
