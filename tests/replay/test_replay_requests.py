"""Answers of the process that replays for the pytest plugin, called directly."""

import copy
import json
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from transformers import LogitsProcessorList, RepetitionPenaltyLogitsProcessor

import tokentape as tt
from tokentape.commands.replay_requests import Server
from tokentape.replay.checking.noise_floor import FLOORS, version_of
from tokentape.replay.tapes.outcomes import report_outcome
from tokentape.store import DatabaseStore

Forged = Callable[[Path, str], Path]


@pytest.fixture
def recorded(
    tmp_path: Path, tiny_folder: Path, record: Callable[..., tt.Recording]
) -> Callable[..., Path]:
    """Record a tape of the tiny model, which can be loaded by its recorded name."""

    def make(name: str = "probe.tape") -> Path:
        lm = tt.load_model(tiny_folder)
        with tt.open_store(tmp_path / "runs.db") as store:
            return tt.pack([record(lm, store, tokens=5)], store, tmp_path / name)

    return make


def replay(tape: Path, **asked: Any) -> dict[str, Any]:
    """Return the only run of the answer, or the whole answer if it is an error."""
    answer = Server().answer({"id": 1, "do": "replay", "tape": str(tape), "mode": "verify"} | asked)
    return answer if "error" in answer else answer["runs"]["0"]


def change_weight(model: Any) -> None:
    model.model.layers[1].mlp.up_proj.weight.mul_(1.05)


@pytest.fixture
def changed_folder(
    tmp_path: Path, tiny_folder: Path, altered: Callable[..., tt.LoadedModel]
) -> Path:
    other = altered(tt.load_model(tiny_folder), change_weight)
    other.model.save_pretrained(tmp_path / "changed")
    other.tokenizer.save_pretrained(tmp_path / "changed")
    return tmp_path / "changed"


def test_requests_are_answered_in_order_and_an_error_is_an_answer(
    recorded: Callable[..., Path],
) -> None:
    tape = recorded()
    requests = [
        {"id": 1, "do": "list", "tape": "none.tape"},
        {"id": 2, "do": "list", "nonsense": True},
        {"id": 3, "do": "list", "tape": str(tape)},
    ]
    done = subprocess.run(
        [sys.executable, "-P", "-m", "tokentape", "serve-replays"],
        input="".join(json.dumps(each) + "\n" for each in requests),
        capture_output=True,
        text=True,
    )
    answers = [json.loads(line) for line in done.stdout.splitlines()]

    assert done.returncode == 0, done.stderr
    assert [each["id"] for each in answers] == [1, 2, 3]
    assert "none.tape" in answers[0]["error"]
    assert "unexpected TypeError" in answers[1]["error"]
    assert answers[2]["runs"] == [{"name": "test", "turns": [1, 2, 3, 4]}]


def test_every_turn_has_a_verdict_of_its_own(recorded: Callable[..., Path]) -> None:
    tape = recorded()
    verified = replay(tape)
    regenerated = replay(tape, mode="regenerate", run=0, turns=[2])
    rebuilt = replay(tape, mode="rebuild")

    assert [each["verdict"] for each in verified["turns"].values()] == ["verified"] * 4
    assert {turn: each["verdict"] for turn, each in regenerated["turns"].items()} == {2: "exact"}
    assert [each["verdict"] for each in rebuilt["turns"].values()] == ["rebuilt"] * 4


def test_what_differs_for_the_whole_recording_is_told_once_for_all(
    recorded: Callable[..., Path], changed_folder: Path
) -> None:
    run = replay(recorded(), model=str(changed_folder))

    assert run["verdict"] == "incomparable"
    # How many of the sampled tokens differ depends on the random stream of the release of torch.
    assert run["summary"].startswith("incomparable: not what was recorded: weights (")
    assert run["summary"].endswith("--tape-update records it again)")
    assert all(f"turn   {turn} " in run["failure"] for turn in (1, 2, 3, 4))
    assert {each["verdict"] for each in run["turns"].values()} == {"incomparable"}
    assert all("weights" in each["causes"] for each in run["turns"].values())


def test_a_fingerprint_that_alone_differs_is_told_with_the_options_that_go_on(
    lm: tt.LoadedModel,
    store: DatabaseStore,
    record: Callable[..., tt.Recording],
    altered: Callable[..., tt.LoadedModel],
) -> None:
    recording = record(lm, store, tokens=4)
    other = altered(lm, lambda model: model.lm_head.weight[0, 0].mul_(1 + 1e-6))
    found = report_outcome(tt.verify(recording, other), allow_drift=False)

    assert found.summary == (
        "incomparable: not what was recorded: weights (no token differs, only the fingerprint "
        "weights: --tape-ignore weights accepts that, --tape-update records it again)"
    )


def test_the_options_for_a_fingerprint_that_differs_accept_what_they_are_said_to(
    lm: tt.LoadedModel,
    store: DatabaseStore,
    record: Callable[..., tt.Recording],
    altered: Callable[..., tt.LoadedModel],
) -> None:
    recording = record(lm, store, tokens=4)
    other = altered(lm, lambda model: model.lm_head.weight.mul_(1 + 1e-2))
    found = report_outcome(tt.verify(recording, other), allow_drift=False)

    assert "no token differs, but log-probabilities drift, by up to" in found.summary
    assert "weights differs: --tape-ignore weights --tape-allow-drift accepts" in found.summary
    accepted = tt.verify(recording, other, ignore=["weights"])
    assert report_outcome(accepted, allow_drift=True).passes


def test_a_template_that_makes_other_prompts_is_told_from_one_that_does_not(
    make_lm: Callable[..., tt.LoadedModel],
    store: DatabaseStore,
    record: Callable[..., tt.Recording],
) -> None:
    lm = make_lm("llama")
    recording = record(lm, store, tokens=2)
    recorded = lm.tokenizer.chat_template
    summaries = []
    for template in ("{# a comment #}" + recorded, "Now:" + recorded):
        tokenizer = copy.deepcopy(lm.tokenizer)
        tokenizer.chat_template = template
        other = tt.LoadedModel(lm.model, tokenizer, lm.name)
        summaries.append(report_outcome(tt.verify(recording, other), allow_drift=False).summary)

    assert all("only the fingerprint template" in each for each in summaries)
    assert ["make other prompts now" in each for each in summaries] == [False, True]


def test_where_a_fingerprint_is_ignored_each_turn_answers_for_its_own_numbers(
    recorded: Callable[..., Path], changed_folder: Path
) -> None:
    tape = recorded()
    ignoring = {"model": str(changed_folder), "ignore": ["weights"]}
    strict, lenient = replay(tape, **ignoring), replay(tape, **ignoring, allow_drift=True)

    assert strict["failure"] == ""
    for turn, each in strict["turns"].items():
        assert each["verdict"] in ("drifted", "diverged")
        assert f"--turn {turn} " in each["failure"]
        others = {1, 2, 3, 4} - {turn}
        assert not any(f"turn   {other} " in each["failure"] for other in others)
        passes = lenient["turns"][turn]["failure"] == ""
        assert passes == (each["verdict"] == "drifted")
    assert "drifted" in {each["verdict"] for each in strict["turns"].values()}


def test_a_given_floor_is_used(recorded: Callable[..., Path], tmp_path: Path) -> None:
    strict = replace(FLOORS["float32"], logprob_floor=0.0)
    strict = replace(strict, version=version_of(strict))
    tt.write_floor(strict, tmp_path / "floor.json")
    run = replay(recorded(), floor=str(tmp_path / "floor.json"))

    assert "drifted" in {each["verdict"] for each in run["turns"].values()}
    assert any(f"floor {strict.version}" in each["failure"] for each in run["turns"].values())


def test_sixteen_bits_are_replayed_as_recorded_and_by_the_floor_kept_with_them(
    tiny_folder: Path, record: Callable[..., tt.Recording], tmp_path: Path, cli: Callable[..., Any]
) -> None:
    database, tape = tmp_path / "half.db", tmp_path / "half.tape"
    with tt.open_store(database) as store:
        record(tt.load_model(tiny_folder, dtype="bfloat16"), store)
    assert cli("verify", "--store", str(database))[0] == 1
    assert cli("calibrate", "--store", str(database))[0] == 0
    with tt.open_store(database) as store:
        tt.pack([store.recording(store.summaries()[0].run_id)], store, tape)
    code, out, _ = cli("verify", "--store", str(tape), "--json")
    run = replay(tape)

    assert code == 0
    assert json.loads(out)["floor"]["dtype"] == "bfloat16"
    assert json.loads(out)["verdict"] == run["verdict"] == "near_tie"
    assert not any(each["failure"] for each in run["turns"].values())


@pytest.mark.parametrize(
    ("forgery", "turn"), [("token", 3), ("seed", 2), ("temperature", 4), ("other_text", 2)]
)
def test_a_forged_turn_fails_itself_and_those_before_it_pass(
    forgery: str,
    turn: int,
    tmp_path: Path,
    recorded: Callable[..., Path],
    forged: Forged,
) -> None:
    recorded()
    run = replay(forged(tmp_path / "runs.db", forgery))

    assert run["turns"][turn]["failure"]
    assert not any(run["turns"][before]["failure"] for before in range(1, turn))


def test_changes_that_no_replay_shows_are_found_by_the_seals(
    recorded: Callable[..., Path], tmp_path: Path
) -> None:
    recorded()
    with sqlite3.connect(tmp_path / "runs.db") as connection:
        assert connection.execute("UPDATE runs SET name = 'another'").rowcount == 1
    connection.close()
    run = replay(tmp_path / "runs.db")

    assert run["failure"].startswith("altered after it was recorded: the summary of the run")
    assert run["failure"] == run["summary"]


def test_turns_with_processors_of_one_s_own_fail_and_the_others_are_replayed(
    tmp_path: Path, tiny_folder: Path
) -> None:
    lm = tt.load_model(tiny_folder)
    own = LogitsProcessorList([RepetitionPenaltyLogitsProcessor(1.3)])
    with tt.open_store("sqlite://") as store:
        with tt.Recorder(store) as recorder:
            generator = tt.ManualGenerator(lm.model, lm.tokenizer, recorder, model_name=lm.name)
            generator.generate("Hello", max_new_tokens=3)
            generator.generate("Hello", max_new_tokens=3, logits_processor=own)
        recording = store.recording(recorder.run_id)
        run = replay(tt.pack([recording], store, tmp_path / "own.tape"))

    assert run["failure"] == ""
    assert run["turns"][1]["failure"] == ""
    assert "generated with RepetitionPenaltyLogitsProcessor" in run["turns"][2]["failure"]


def test_a_model_that_is_not_there_is_named(recorded: Callable[..., Path]) -> None:
    run = replay(recorded(), model="./models/none")

    assert run["failure"] == run["summary"] == "there is no model folder ./models/none"


def test_an_update_of_an_altered_tape_is_refused_and_does_not_change_it(
    recorded: Callable[..., Path], tmp_path: Path
) -> None:
    tape = recorded()
    content = bytearray(tape.read_bytes())
    place = content.index(b"PAR1", len(content) // 2)
    content[place + 40] ^= 1
    tape.write_bytes(content)
    answer = replay(tape, update=True)

    assert "error" in answer
    assert tape.read_bytes() == content
    assert [path.name for path in tmp_path.glob(".*")] == []


def test_an_update_that_would_not_pass_either_leaves_the_tape(
    recorded: Callable[..., Path], changed_folder: Path, tmp_path: Path
) -> None:
    tape = recorded()
    before = tape.read_bytes()
    floor = tmp_path / "floor.json"
    floor.write_text("{}")
    answer = replay(tape, model=str(changed_folder), update=True, floor=str(floor))

    assert "the tape was not changed" in answer["error"]
    assert tape.read_bytes() == before
