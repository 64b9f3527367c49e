"""The commands that a document offers to repeat a replay."""

from dataclasses import replace
from typing import Any

import pytest

import tokentape as tt
from tests.replay.four_turns import FOUR
from tests.replay.made_talk import recorded, talk_events
from tests.replay.view.documents import through_json
from tokentape.replay.view.document import view_document
from tokentape.store.attachments import StoredVerdict

WHERE = "sqlite:///runs/demo.db"


@pytest.fixture(scope="module")
def recording() -> tt.Recording:
    return replace(recorded(talk_events(FOUR)), where=WHERE)


def _report(recording: tt.Recording, verdict: str, *turns: int, **fields: Any) -> dict[str, Any]:
    repro = f"tokentape verify {recording.run_id} --turn {turns[0]}"
    replayed = [{"turn": turn, "verdict": verdict} for turn in turns]
    return {"replay": "verify", "verdict": verdict, "turns": replayed, "repro": repro} | fields


def _repeat(recording: tt.Recording, report: dict[str, Any], label: str = "") -> str:
    """Return the command that the document of a recording offers for a report."""
    stored = StoredVerdict(
        run_id=recording.run_id, at_us=1, replay="verify", verdict=report["verdict"], report=report
    )
    verdicts, further = ([], [(label, report)]) if label else ([stored], [])
    document = view_document(recording, verdicts=verdicts, further_reports=further)
    (verdict,) = through_json(document)["verdicts"]
    return " ".join(verdict["repeat"])


def test_a_replay_of_all_turns_is_repeated_whole_and_with_the_store(
    recording: tt.Recording,
) -> None:
    report = _report(recording, "verified", 1, 2, 3, 4)

    assert _repeat(recording, report) == f"tokentape verify {recording.run_id} --store {WHERE}"


def test_a_replay_of_some_turns_is_repeated_for_these(recording: tt.Recording) -> None:
    repeat = _repeat(recording, _report(recording, "exact", 2, 4, replay="regenerate"))

    assert repeat == (f"tokentape regenerate {recording.run_id} --store {WHERE} --turn 2 --turn 4")


def test_a_divergence_is_repeated_in_its_turn(recording: tt.Recording) -> None:
    report = _report(recording, "diverged", 1, 2, 3, 4, divergences=[{"turn": 3, "step": 1}])
    report["repro"] += " --without-interventions"

    assert _repeat(recording, report) == (
        f"tokentape verify {recording.run_id} --store {WHERE} --turn 3 --without-interventions"
    )


@pytest.mark.parametrize("where", [f"--store {WHERE}", ""])
def test_a_report_of_another_recording_offers_no_command_for_this_one(
    recording: tt.Recording, where: str
) -> None:
    report = _report(recording, "diverged", 3)
    report["repro"] += f" {where}"

    assert _repeat(recording, report, label="an altered copy") == ""


def test_a_report_of_another_recording_offers_the_command_that_names_it(
    recording: tt.Recording,
) -> None:
    report = _report(recording, "diverged", 3)
    report["repro"] += " --store copy.tape"

    assert _repeat(recording, report, label="an altered copy") == report["repro"]


@pytest.mark.parametrize("label", ["", "a stranger's"])
@pytest.mark.parametrize(
    "fields",
    [
        {"replay": "import evil"},
        {"replay": "; rm -rf ~"},
        {"repro": "rm -rf ~ --store x"},
        {"repro": "tokentape import x --store 'not closed"},
        {"turns": [{"turn": "1; rm -rf ~"}, {"turn": 2**70}]},
        {"divergences": [{"turn": "3; rm -rf ~"}]},
    ],
)
def test_a_strangers_report_adds_no_words_of_its_own(
    recording: tt.Recording, fields: dict[str, Any], label: str
) -> None:
    report = _report(recording, "diverged", 3) | fields

    words = _repeat(recording, report, label).split()
    assert [*words[:3:2], *words[3:5]] in (
        [],
        ["tokentape", recording.run_id, "--store", WHERE],
    )
    assert words[5:] in ([], ["--turn", "3"])
