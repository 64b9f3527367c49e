"""The panels of the page in a real browser: cache, tracks, replays, forks, and a diff."""

import re
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import tokentape as tt
from benchmarks.chromium import Chromium, OpenedPage
from tests.interventions import intervention
from tests.replay.made_talk import Said, recorded, talk_events
from tests.replay.view.made_document import made_document
from tests.samplers import GREEDY, SAMPLED
from tests.tampering import without_triggers
from tokentape.recorder.projections.lineage_tree import lineage_of
from tokentape.replay.view.diff_document import diff_document
from tokentape.replay.view.document import view_document
from tokentape.replay.view.page import view_page

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.slow

LABEL = "a copy with one token changed"
NARROW, WIDE = 360, 1280
ASSETS = Path(__file__).parents[2] / "replay" / "view" / "assets"


class Runs:
    """A run under an intervention, its fork, a tampered copy's report, and their pages."""

    def __init__(self, lm: tt.LoadedModel, folder: Path) -> None:
        self.url = url = f"sqlite:///{folder / 'runs.db'}"
        tampered = folder / "tampered.db"
        with tt.open_store(url) as store:
            run_id = _record(lm, store)
        shutil.copy(folder / "runs.db", tampered)
        _change_token(tampered, turn=3, step=2)
        with tt.open_store(f"sqlite:///{tampered}") as store:
            self.report = tt.verify(store.recording(run_id), lm)
        with tt.open_store(url) as store:
            with tt.Investigation.fork(store, run_id, lm, at_turn=3) as fork:
                fork.intervene(intervention("scale", name="louder", layer=1))
                fork.chat("Why not?", max_new_tokens=6, **GREEDY)
            self.fork_id = fork.run_id
            recording = store.recording(run_id)
            tree = lineage_of(run_id, store.summaries())
            self.document = view_document(
                recording,
                lineage=tree.as_json({}, {}),
                further_reports=[(LABEL, self.report.to_dict())],
            )
            self.diff = diff_document(recording, store.recording(self.fork_id))


def _record(lm: tt.LoadedModel, store: Any) -> str:
    with tt.Investigation(lm, store=store, name="t", system_prompt="Be kind.", seed=7) as run:
        run.chat("What is it?", max_new_tokens=6, **GREEDY)
        run.watch([0])
        run.intervene(intervention("steer", name="calm", layer=0))
        run.chat("And now?", max_new_tokens=6, **GREEDY)
        run.chat("Why?", max_new_tokens=6, **SAMPLED)
        run.chat("Again?", max_new_tokens=6, use_cache=False, **GREEDY)
    return run.run_id


def _change_token(path: Path, *, turn: int, step: int) -> None:
    with closing(sqlite3.connect(path)) as connection, without_triggers(connection):
        connection.execute(
            "UPDATE tokens SET token_id = (token_id + 7) % 200 + 10 WHERE turn = ? AND step = ?",
            (turn, step),
        )


@pytest.fixture(scope="module")
def runs(make_lm: Callable[..., tt.LoadedModel], tmp_path_factory: pytest.TempPathFactory) -> Runs:
    return Runs(make_lm("llama"), tmp_path_factory.mktemp("runs"))


@pytest.fixture
def opened(chromium: Chromium) -> Iterator[OpenedPage]:
    """An empty page, which must not request anything and must not complain."""
    with chromium.open_page(width=WIDE) as opened:
        yield opened
        assert opened.messages == []
        assert all(request.startswith("file:") for request in opened.requests)


@pytest.fixture
def show(opened: OpenedPage, tmp_path: Path) -> Callable[..., "Page"]:
    """Return a function that opens the page of a document at one of its parts."""

    def show(document: dict[str, Any], fragment: str = "") -> "Page":
        path = tmp_path / "page.html"
        path.write_text(view_page(document), encoding="utf-8")
        return opened.open(path, fragment)

    return show


def test_the_cache_panel_says_what_was_saved(runs: Runs, show: Callable[..., "Page"]) -> None:
    saved = runs.document["cache"]
    panel = show(runs.document, "#cache").locator("#cache").inner_text()
    computed, without = saved["prompt_tokens_computed"], saved["prompt_tokens_without_reuse"]

    assert f"{computed:,} of {without:,} prompt tokens computed" in panel
    assert f"{saved['times_fewer']:.1f} times fewer than without the cache" in panel
    assert "Turn 4 computed all" in panel
    assert "the cache was switched off for this turn" in panel


def test_a_partial_hit_says_which_token_diverged(show: Callable[..., "Page"]) -> None:
    document = made_document()
    document["turns"][1]["rounds"][0]["cache"] |= {
        "reason": "token_divergence",
        "old_token": {"id": 4, "text": " norm"},
        "new_token": {"id": 5, "text": " of\u202e"},
    }
    removed = {"policy": "tool_results", "reason": "", "removed_tokens": 9, "removed": []}
    document["turns"][0]["rounds"][0]["cache"]["reason"] = "token_divergence"
    document["turns"][0]["rounds"][0]["pruned"] = removed
    items = show(document, "#cache").locator("#cache li")
    pruned = items.first.inner_text()

    text = " ".join(items.nth(1).inner_text().split())
    assert text.startswith("Turn 2 reused 40 of 60 prompt tokens; the rest was computed because")
    assert "differs from the cached tokens at token 40: the cache has norm, the prompt of" in text
    assert "\\u202e" in text
    assert "3 cached tokens no longer fitted" in text
    assert "because 9 tokens of the conversation had been removed to fit the context" in pruned


def test_tracks_name_interventions_and_lead_to_their_tokens(
    runs: Runs, show: Callable[..., "Page"]
) -> None:
    page = show(runs.document, "#inside")
    panel = page.locator("#inside")

    assert "calm" in panel.inner_text()
    assert "adds a vector to the output" in panel.inner_text()
    assert "generated tokens" in panel.inner_text()
    tracks = panel.locator("canvas.track")
    assert tracks.count() == 2
    assert all(tracks.nth(index).bounding_box()["height"] > 10 for index in range(2))
    panel.get_by_text("Rule and positions").click()
    panel.get_by_role("link", name="turn 2, tokens").click()
    assert page.url.endswith("#t2.s0")
    assert page.locator("#transcript").is_visible()


def test_a_click_on_a_track_selects_the_token(runs: Runs, show: Callable[..., "Page"]) -> None:
    page = show(runs.document, "#inside")
    track = page.locator("#inside canvas.track").first
    width = track.bounding_box()["width"]

    # Of 24 tokens the one in the middle of turn 3.
    page.locator("#inside canvas.track").last.hover(position={"x": width * 15.5 / 24, "y": 10})
    assert " at turn 3, token 3" in page.locator("#inside").inner_text()
    track.click(position={"x": width * 15.5 / 24, "y": 10})
    assert page.url.endswith("#t3.s3")


def test_activations_are_drawn_and_listed(runs: Runs, show: Callable[..., "Page"]) -> None:
    panel = show(runs.document, "#inside").locator("#inside")

    panel.get_by_label("Show the").select_option("abs_max")
    panel.get_by_text("The numbers as a table").click()
    panel.locator("tbody tr").first.wait_for()
    values = panel.locator("tbody td:last-child").all_inner_texts()
    numbers = [each["statistics"]["abs_max"] for each in runs.document["activations"]]
    assert [float(value) for value in values] == pytest.approx(numbers, rel=0.005)


def test_the_first_divergence_shows_both_sides(runs: Runs, show: Callable[..., "Page"]) -> None:
    first = runs.report.first
    assert first is not None
    page = show(runs.document, "#replays")
    panel = page.locator("#replays")
    text = panel.inner_text()

    assert LABEL in text
    assert "diverged" in text
    assert "Turn 3, token 2: recorded" in text
    assert f"id {first.recorded.token_id}" in text
    assert f"id {first.replayed.token_id}" in text
    assert runs.report.repro in text
    assert panel.get_by_role("table", name="Likeliest tokens, replayed").count() >= 1
    panel.get_by_role("link", name="See turn 3, token 2").click()
    assert page.url.endswith("#t3.s2")


def _with_reports(document: dict[str, Any], report: dict[str, Any]) -> dict[str, Any]:
    """Return a document with a report of this recording and one of another recording."""
    first = document["verdicts"][0]
    own = first | {"label": "", "repeat": ["tokentape", "verify", "run-1"], "at_us": 1}
    return document | {"verdicts": [own | report, first | {"repeat": []} | report]}


def test_other_tokens_are_listed_apart_from_other_numbers(
    runs: Runs, show: Callable[..., "Page"]
) -> None:
    first, *_ = runs.document["verdicts"][0]["divergences"]
    numbers = first | {"step": 4, "replayed": first["recorded"] | {"logprob": -0.25}, "margin": 0.0}
    report = {"divergences": [first, numbers, first | {"step": 5}], "divergences_total": 3}
    panel = show(_with_reports(runs.document, report), "#replays").locator("#replays article").first

    panel.get_by_text("1 further token that differs").click()
    panel.get_by_text("1 further token that is the same, with other numbers").click()
    same = panel.locator("summary").filter(has_text="token 4: ")
    assert "replayed -0.2500" in same.inner_text().replace("\u2212", "-")
    same.click()
    text = panel.inner_text()
    assert text.index("token 5: recorded") < text.index("token 4: ")
    assert "by 0 logits" not in text
    assert "null" not in text


def test_a_report_of_another_recording_says_so_and_offers_no_command_of_this_one(
    runs: Runs, show: Callable[..., "Page"]
) -> None:
    document = _with_reports(runs.document, {})
    own, other = show(document, "#replays").locator("#replays article").all()

    assert "See turn 3, token 2 in the transcript" in own.inner_text()
    assert "Repeat it:\ntokentape verify run-1" in own.inner_text().replace("\n\n", "\n")
    assert "See turn 3, token 2 of this page's recording" in other.inner_text()
    assert f"shows the recording of this page, not “{LABEL}”" in other.inner_text()
    assert "No command is shown: this report is of another recording" in other.inner_text()
    assert "tokentape" not in other.inner_text()
    assert "Allowed for as noise" in own.inner_text()
    assert "Allowed for as noise" not in other.inner_text()


def test_a_page_without_replays_says_how_to_verify(show: Callable[..., "Page"]) -> None:
    panel = show(made_document(), "#replays").locator("#replays").inner_text()

    assert "nothing on this page has been verified" in panel
    assert "tokentape verify run-1" in panel


def test_the_tree_of_forks_names_places_and_commands(
    runs: Runs, show: Callable[..., "Page"]
) -> None:
    panel = show(runs.document, "#forks").locator("#forks")

    assert panel.locator("[aria-current]").inner_text().startswith("t")
    assert "this page" in panel.locator("[aria-current]").inner_text()
    assert "forked before turn 3" in panel.inner_text().replace("\n", " ")
    panel.get_by_text("Commands to open and compare it").click()
    command = panel.locator("pre").first
    assert command.inner_text().startswith(f"tokentape view {runs.fork_id} --store sqlite:///")
    run_id = runs.document["run"]["run_id"]
    compare = panel.locator("pre").nth(1).inner_text()
    assert compare.startswith(f"tokentape diff {run_id} {runs.fork_id} --store sqlite:///")


def test_a_fork_is_compared_with_its_parent_first(runs: Runs, show: Callable[..., "Page"]) -> None:
    document = runs.document | {"run": runs.document["run"] | {"run_id": runs.fork_id}}
    panel = show(document, "#forks").locator("#forks")

    panel.get_by_text("Commands to open and compare it").click()
    compare = panel.locator("pre").nth(1).inner_text()
    assert compare.startswith(f"tokentape diff {runs.document['run']['run_id']} {runs.fork_id} ")


def test_a_diff_shows_changes_first_and_then_the_turns(
    runs: Runs, show: Callable[..., "Page"]
) -> None:
    text = show(runs.diff).locator("main").inner_text()
    places = [
        text.index(each)
        for each in ("What was changed", "intervention.louder", "Turn by turn", "Turns 1 to 2 are")
    ]

    assert places == sorted(places)
    assert "Turn 3 differs in what acts inside the model" in text
    assert "Turn 4 is only in a" in text
    assert "A fork of a before turn 3." in text


def test_a_diff_marks_texts_from_where_they_differ(show: Callable[..., "Page"]) -> None:
    short, long = (
        recorded(talk_events([Said()], system=text)) for text in ("In brief.", "In brief. Be kind.")
    )
    page = show(diff_document(short, long))

    assert "reads another system prompt: (end) / ' Be'" in page.locator("p.lead").inner_text()
    marks = page.locator("#t1 .two mark").all_inner_texts()
    assert marks[1].strip().startswith("Be kind.")
    assert not marks[0].strip().startswith("brief.")


def test_keys_go_from_difference_to_difference(runs: Runs, show: Callable[..., "Page"]) -> None:
    page = show(runs.diff)
    bar = page.get_by_role("navigation", name="Differences")
    total = bar.inner_text().split()[-2]

    page.keyboard.press("n")
    assert f"1 of {total}" in bar.inner_text()
    assert page.locator(".current-difference").count() == 2
    first = page.evaluate("document.activeElement.dataset.difference")
    page.keyboard.press("n")
    page.keyboard.press("p")
    assert page.evaluate("document.activeElement.dataset.difference") == first == "0"


def test_an_update_replaces_the_last_rows_of_every_column(
    runs: Runs, show: Callable[..., "Page"]
) -> None:
    page = show(runs.document)
    modules = [(ASSETS / each).read_text("utf-8") for each in ("packed.js", "run_view.js")]
    script = re.sub(r"(?m)^import .*$|^export ", "", "\n".join(modules))
    with tt.open_store(runs.url) as store:
        later = view_document(store.recording(runs.document["run"]["run_id"]), tokens_from=20)

    before, after = page.evaluate(
        f"""([document, later]) => {{
            {script}
            const view = new RunView(document);
            const numbers = () => JSON.stringify(Object.entries(view.tokens).map(
                ([name, column]) => [name, typeof column === "number" ? column : [...column]]));
            const before = numbers();
            view.update(later);
            return [before, numbers()];
        }}""",
        [runs.document, later],
    )

    assert before == after


@pytest.mark.parametrize("fragment", ["#cache", "#inside", "#replays", "#forks", "diff"])
def test_panels_fit_a_phone(
    fragment: str, runs: Runs, opened: OpenedPage, show: Callable[..., "Page"]
) -> None:
    opened.page.set_viewport_size({"width": NARROW, "height": 800})
    page = show(runs.diff) if fragment == "diff" else show(runs.document, fragment)

    assert page.evaluate("document.documentElement.scrollWidth") <= NARROW


@pytest.mark.parametrize("kind", ["run", "diff"])
def test_links_stay_in_the_frame_of_a_notebook(
    kind: str, runs: Runs, opened: OpenedPage, tmp_path: Path
) -> None:
    page = view_page(runs.document if kind == "run" else runs.diff)
    notebook = tmp_path / "notebook.html"
    frame = f'<iframe sandbox="allow-scripts" width="900" srcdoc="{escape(page)}"></iframe>'
    notebook.write_text(f"<!doctype html><title>n</title>{frame}", encoding="utf-8")
    shown = opened.open(notebook).frame_locator("iframe")

    if kind == "run":
        shown.get_by_role("tab", name="Cache").click()
        shown.get_by_role("link", name="Turn 4").first.click()
        assert shown.locator("#t4").is_visible()
    else:
        shown.get_by_role("link", name="turn 3").first.click()
        shown.locator("#t3").wait_for()
    assert shown.locator("main").is_visible()
