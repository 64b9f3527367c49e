"""`tokentape verify` finds each forgery, and the turn of it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import tokentape as tt
from tokentape.generation.models.recorded_model import load_as_recorded

Cli = Callable[..., tuple[int, str, str]]

# Expected: the verdict on the whole, the first turn at fault, and the reason.
EXPECTED = {
    "token": ("diverged", 3, "the token was altered"),
    "system_word": (
        "diverged",
        1,
        "the prompt changed: the ids of the system prompt do not decode",
    ),
    "system_word_alone": ("diverged", 1, "do not have their recorded sha256"),
    "seed": ("diverged", 2, "seed changed"),
    "temperature": ("diverged", 4, "sampling settings changed"),
}


@pytest.fixture(scope="module", params=["tiny", pytest.param("demo", marks=pytest.mark.demo_model)])
def recorded(
    request: pytest.FixtureRequest,
    tiny_folder: Path,
    tmp_path_factory: pytest.TempPathFactory,
    record: Callable[..., tt.Recording],
) -> Path:
    """Return a database with four turns of the tested model."""
    name = str(tiny_folder) if request.param == "tiny" else "smollm2-demo"
    path = tmp_path_factory.mktemp(request.param) / "runs.db"
    with tt.open_store(path) as store:
        record(tt.load_model(name), store, tokens=8)
    return path


def turns_at_fault(report: dict[str, Any]) -> list[int]:
    return [t["turn"] for t in report["turns"] if t["verdict"] not in ("verified", "near_tie")]


def test_the_honest_recording_is_verified(recorded: Path, cli: Cli) -> None:
    code, out, _ = cli("verify", "--store", str(recorded), "--json")
    report = json.loads(out)

    assert code == 0
    assert report["verdict"] == "verified"
    assert report["divergences"] == []
    assert [turn["generator_matches"] for turn in report["turns"]] == [None, True, None, True]


@pytest.mark.parametrize("forgery", EXPECTED)
def test_a_forgery_is_found_and_the_right_turn_is_named(
    recorded: Path, forgery: str, forged: Callable[[Path, str], Path], cli: Cli
) -> None:
    verdict, turn, reason = EXPECTED[forgery]
    copy = forged(recorded, forgery)
    code, out, _ = cli("verify", "--store", str(copy), "--json")
    report = json.loads(out)
    printed = cli("verify", "--store", str(copy))

    assert code == 1
    assert report["verdict"] in verdict.split("|")
    assert turns_at_fault(report)[0] == turn
    assert reason in report["reason"]
    assert printed[0] == 1
    if report["first"] is not None:
        again = cli(*report["repro"].split()[1:])
        assert again[0] == 1
        assert f"first divergence: turn {turn}" in again[1]
    assert f"turn {turn}" in printed[1]
    assert "Traceback" not in printed[2]


def test_only_the_turn_of_another_seed_or_temperature_is_at_fault(
    recorded: Path, forged: Callable[[Path, str], Path], cli: Cli
) -> None:
    for forgery, turn in (("seed", 2), ("temperature", 4)):
        _, out, _ = cli("verify", "--store", str(forged(recorded, forgery)), "--json")

        assert turns_at_fault(json.loads(out)) == [turn]


def test_one_projection_a_hundredth_larger_is_another_model(
    recorded: Path, tmp_path: Path, cli: Cli
) -> None:
    with tt.open_store(recorded) as store:
        started = store.recording(store.summaries()[0].run_id).started()
    lm = load_as_recorded(None, started)
    with torch.no_grad():
        lm.model.model.layers[1].self_attn.q_proj.weight.mul_(1.01)
    lm.model.save_pretrained(tmp_path / "louder")
    lm.tokenizer.save_pretrained(tmp_path / "louder")
    code, out, _ = cli(
        "verify", "--store", str(recorded), "--model", str(tmp_path / "louder"), "--json"
    )
    report = json.loads(out)

    assert code == 1
    assert report["verdict"] == "incomparable"
    assert report["reason"] == "not what was recorded: weights"
    assert [each["field"] for each in report["differences"] if each["forbids"]] == ["weights"]
    # The numbers show it as well, from the first turn on.
    assert turns_at_fault(report) == [1, 2, 3, 4]
    assert report["first"]["turn"] == 1


def test_the_numbers_alone_find_the_changed_weight(recorded: Path) -> None:
    """With the fingerprint ignored: log-probabilities show what the picks do not."""
    with tt.open_store(recorded) as store:
        recording = store.recording(store.summaries()[0].run_id)
        lm = load_as_recorded(None, recording.started())
        with torch.no_grad():
            lm.model.model.layers[1].self_attn.q_proj.weight.mul_(1.01)
        report = tt.verify(recording, lm)

    assert {turn.verdict for turn in report.turns} <= {tt.Verdict.DRIFTED, tt.Verdict.DIVERGED}
    assert report.first is not None
    assert (report.first.turn, report.first.kind) == (1, "logprob")


@pytest.mark.parametrize(
    ("forgery", "codes", "complaint"),
    [
        ("cut_short", (1, 1), "turn 3: its settings do not stop it|produces other tokens"),
        ("other_text", (1, 1), "turn 2: the ids of the reply do not decode to its text"),
        ("other_limit", (1, 1), "turn 2: its settings do not stop it|produces other tokens"),
        ("other_position", (2, 2), "turn 2, step 3 is at position"),
        ("broken_settings", (2, 2), "turn 2 has damaged settings"),
    ],
)
def test_what_the_numbers_do_not_show_is_seen_in_other_ways(
    recorded: Path,
    forgery: str,
    codes: tuple[int, int],
    complaint: str,
    forged: Callable[..., Path],
    cli: Cli,
) -> None:
    copy = forged(recorded, forgery)
    for command, code, text in zip(
        ("verify", "regenerate"), codes, complaint.split("|") * 2, strict=False
    ):
        found, out, err = cli(command, "--store", str(copy))

        assert found == code, out + err
        assert text in out + err
        assert "Traceback" not in err


def test_generate_compares_log_probabilities_too(
    recorded: Path, forged: Callable[..., Path], cli: Cli
) -> None:
    copy = forged(recorded, "other_logprob")
    code, out, _ = cli("regenerate", "--store", str(copy), "--json")

    assert code == 1
    report = json.loads(out)
    assert report["verdict"] == "diverged"
    assert {turn["verdict"] for turn in report["turns"]} == {"drifted", "exact"}
    assert "turn 1 does not match its seal" in report["altered"][0]
