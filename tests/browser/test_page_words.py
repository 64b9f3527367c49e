"""What the page of a made document says about tokens, replays and links, and where keys lead."""

import base64
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import Locator, Page, expect

from benchmarks.chromium import OpenedPage
from tests.replay.view.made_document import made_document
from tokentape.replay.view.page import view_page

pytestmark = pytest.mark.slow

LONG = tuple(f" w{index}" for index in range(200))


@pytest.fixture
def show(opened: OpenedPage, tmp_path: Path) -> Callable[..., Page]:
    """Return a function that opens the page of a document at one of its parts."""

    def show(document: dict[str, Any], fragment: str = "") -> Page:
        path = tmp_path / "page.html"
        path.write_text(view_page(document), encoding="utf-8")
        return opened.open(path, fragment)

    return show


def inspector(page: Page) -> Locator:
    return page.get_by_role("complementary", name="Token inspector")


def changed(document: dict[str, Any], name: str, row: int, value: float) -> None:
    """Change one number of a column of the tokens."""
    column = document["tokens"]["columns"][name]
    numbers = np.frombuffer(base64.b64decode(column["data"]), f"<{column['dtype']}").copy()
    numbers[row * column["width"]] = value
    column["data"] = base64.b64encode(numbers.tobytes()).decode()


def report(replay: str, verdict: str, turns: range) -> dict[str, Any]:
    """Return a stored verdict as a document has it."""
    each = {"tokens": 6, "mismatches": 0, "near_ties": 0, "logprob_difference_max": 0.0}
    return {
        "label": "",
        "at_us": 0,
        "replay": replay,
        "verdict": verdict,
        "passes": True,
        "reason": "",
        "causes": [],
        "divergences": [],
        "divergences_total": 0,
        "floor": None,
        "altered": [],
        "repro": "",
        "tools": [],
        "fingerprints": [],
        "turns": [each | {"turn": turn, "verdict": verdict} for turn in turns],
    }


def test_letters_work_where_a_tab_or_a_measure_was_clicked(show: Callable[..., Page]) -> None:
    page = show(made_document(turns=3), "#t1.s2")
    page.get_by_role("radio", name="Entropy").click()
    page.keyboard.press("n")
    expect(inspector(page)).to_contain_text("Turn 2, token 0")
    page.keyboard.press("ArrowRight")
    expect(inspector(page)).to_contain_text("Turn 2, token 1")
    page.get_by_role("tab", name="Cache").click()
    page.keyboard.press("l")
    expect(inspector(page)).to_contain_text("Turn 1, token 2")
    page.get_by_role("tab", name="Forks").click()
    page.keyboard.press("?")

    expect(page.get_by_role("dialog", name="Keys of this page")).to_be_visible()


def test_an_arrow_on_the_strip_moves_by_one_token(show: Callable[..., Page]) -> None:
    page = show(made_document(LONG), "#t1.s2")
    page.get_by_role("slider", name="Strip of the run").focus()
    page.keyboard.press("ArrowRight")
    expect(inspector(page)).to_contain_text("Turn 1, token 3")
    page.keyboard.press("PageDown")

    expect(inspector(page)).to_contain_text("Turn 1, token 23")


def test_a_tab_leads_to_the_begin_of_its_panel_and_back_to_the_place(
    show: Callable[..., Page],
) -> None:
    page = show(made_document(LONG, turns=16), "#t12.s150")
    token = page.locator("[data-token='2350']")
    expect(token).to_be_in_viewport()
    before = token.bounding_box()
    page.get_by_role("tab", name="Cache").click()
    expect(page.get_by_role("heading", name="Cache", exact=True)).to_be_in_viewport()
    page.get_by_role("tab", name="Transcript").click()
    page.wait_for_timeout(100)
    after = page.locator("[data-token='2350']").bounding_box()

    assert before is not None
    assert after is not None
    assert abs(before["y"] - after["y"]) <= 2


@pytest.mark.parametrize(
    ("fragment", "said"),
    [
        ("#t1.s99", "The address names token 99 of turn 1, which has tokens 0 to 5."),
        ("#t99", "The address names turn 99, which this run does not have."),
        ("#t99.s1", "The address names turn 99, which this run does not have."),
        ("#foo", "The address ends in #foo, which names nothing on this page."),
    ],
)
def test_a_link_that_leads_nowhere_is_said(
    show: Callable[..., Page], fragment: str, said: str
) -> None:
    page = show(made_document(), fragment)
    note = page.get_by_text("The address")
    expect(note).to_have_text(said)
    expect(note).to_be_in_viewport()
    page.keyboard.press("n")

    expect(note).to_have_count(0)


def test_how_a_token_was_chosen_is_said(show: Callable[..., Page]) -> None:
    document = made_document(turns=2)
    document["turns"][1]["settings"] = {"repetition_penalty": 1.2}
    changed(document, "forced", 2, 1)
    changed(document, "top_ids", 7, 4)
    page = show(document, "#t1.s1")
    shown = inspector(page)
    expect(shown).to_contain_text("sampled")
    expect(shown).to_contain_text("Raw: before temperature, penalties and filters.")
    expect(shown.get_by_role("row", name="probability", exact=False).first).to_contain_text(
        "54.9 %"
    )
    page.keyboard.press("ArrowRight")
    expect(shown).to_contain_text("chosen by the experimenter")
    expect(shown.get_by_role("row").nth(1)).to_have_text("probability24.7 %–")
    page.evaluate("location.hash = '#t2.s1'")
    expect(shown).to_contain_text("greedy")

    expect(shown).to_contain_text("here not the likeliest raw one")


def test_the_recorded_token_has_one_number(show: Callable[..., Page]) -> None:
    document = made_document()
    changed(document, "logprob", 1, -3.1128)
    changed(document, "top_logprobs", 1, -3.115)
    shown = inspector(show(document, "#t1.s1"))

    expect(shown.get_by_role("row").nth(2)).to_contain_text("−3.113")
    row = shown.get_by_role("radio", name="recorded")
    expect(row).to_contain_text("4.45 %")
    assert "log-probability −3.113 raw" in (row.get_attribute("title") or "")


def test_the_first_token_of_a_reply_names_the_time_of_the_prompt(
    show: Callable[..., Page],
) -> None:
    page = show(made_document(), "#t2.s0")
    expect(inspector(page)).to_contain_text("prompt 45 ms")
    page.keyboard.press("ArrowRight")

    expect(inspector(page)).not_to_contain_text("prompt 45 ms")


def test_the_head_says_which_turns_a_replay_checked(show: Callable[..., Page]) -> None:
    document = made_document(turns=9)
    document["verdicts"] = [
        report("verify", "verified", range(1, 10)),
        report("regenerate", "diverged", range(2, 4)),
        report("regenerate", "exact", range(2, 5)),
        report("regenerate", "exact", range(7, 8)),
        report("retrace", "exact", range(1, 8)),
    ]
    links = show(document).locator("header a[href='#replays']")

    expect(links).to_have_text(
        [
            "verify: ✓ verified",
            "regenerate of turns 2–4, 7: = exact",
            "retrace of 7 of 9 turns: = exact",
        ]
    )


def test_the_marks_of_the_strip_and_the_reasons_of_the_history_are_in_words(
    show: Callable[..., Page],
) -> None:
    document = made_document()
    document["turns"][1]["rounds"][0] |= {"history_reason": "own_prompt"}
    span = {"turn": 1, "first_token": 0, "last_token": 3}
    document["interventions"] = [
        {
            "name": "calm",
            "kind": "steer",
            "rule": "",
            "layers": [0],
            "spans": [span],
            "prompt_spans": [],
        }
    ]
    page = show(document)

    expect(page.get_by_text("acted inside the model", exact=True)).to_be_visible()
    expect(page.get_by_role("article", name="Turn 2")).to_contain_text(
        "History: the prompt was written without the conversation."
    )


def test_the_space_before_a_word_leaves_no_colour_at_the_end_of_a_line(
    show: Callable[..., Page],
) -> None:
    page = show(made_document(LONG), "#t1.s2")
    reply = page.get_by_role("group", name="Reply of turn 1")
    expect(reply.locator("[data-token='2']")).to_have_text("w2")
    broken = reply.evaluate(
        "(each) => [...each.querySelectorAll('[data-token]')]"
        ".filter((token) => token.getClientRects().length !== 1).length"
    )

    assert broken == 0
    assert reply.evaluate("(each) => each.textContent") == "".join(LONG)
