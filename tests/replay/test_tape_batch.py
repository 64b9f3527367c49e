"""Tapes that are verified together have the answers that each has alone."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import LogitsProcessorList, RepetitionPenaltyLogitsProcessor

import tokentape as tt
from tests.replay.copies import altered_copy
from tokentape.commands.replay_requests import Server
from tokentape.store import DatabaseStore

Record = Callable[..., tt.Recording]


def without_numbers(value: Any) -> Any:
    """Return an answer without the numbers that time and rounding change."""
    if isinstance(value, dict):
        # Of an answer in JSON, keys are texts.
        return {str(name): without_numbers(each) for name, each in value.items() if name != "id"}
    if isinstance(value, float):
        return pytest.approx(value, abs=5e-5)
    if isinstance(value, str):
        return re.sub(r"[▁-█]+|\d[\d.,]*(e[-+]?\d+)?|\s+", " ", value)
    return value


def fails(answer: dict[str, Any]) -> bool:
    runs = answer.get("runs", {}).values()
    turns = (turn for run in runs for turn in run["turns"].values())
    return "error" in answer or any(each["failure"] for each in (*runs, *turns))


def write_tapes(folder: Path, model: Path, record: Record) -> list[Path]:
    """Write honest, forged, altered, broken and half replayable recordings of a model."""
    lm = tt.load_model(model)
    with tt.open_store(folder / "runs.db") as store:
        assert isinstance(store, DatabaseStore)
        first = record(lm, store, tokens=5)
        honest = tt.pack([first], store, folder / "honest.tape")
        two = tt.pack([first, record(lm, store, tokens=3)], store, folder / "two.tape")
        own = LogitsProcessorList([RepetitionPenaltyLogitsProcessor(1.3)])
        with tt.Recorder(store) as recorder:
            generator = tt.ManualGenerator(lm.model, lm.tokenizer, recorder, model_name=lm.name)
            generator.generate("Hello", max_new_tokens=3)
            generator.generate("Hello", max_new_tokens=3, logits_processor=own)
        half = tt.pack([store.recording(recorder.run_id)], store, folder / "half.tape")
    renamed = altered_copy(
        folder / "runs.db", lambda db: db.execute("UPDATE runs SET name = 'x'") and None
    )
    forged = altered_copy(
        folder / "runs.db",
        lambda db: db.execute("UPDATE tokens SET token_id = 99 WHERE turn = 3") and None,
    )
    broken = folder / "broken.tape"
    broken.write_bytes(honest.read_bytes()[:3000])
    return [honest, renamed, forged, broken, two, half, folder / "none.tape"]


def test_every_kind_of_tape_in_a_group_has_the_answer_that_it_has_alone(
    tmp_path: Path, tiny_folder: Path, record: Record
) -> None:
    tapes = write_tapes(tmp_path, tiny_folder, record)
    requests: list[dict[str, Any]] = [{"tape": str(tape)} for tape in tapes]
    requests.append({"tape": str(tapes[0]), "model": "./models/none"})
    requests.append({"tape": str(tapes[0]), "floor": str(tmp_path / "no-floor.json")})
    server = Server()

    together = server.answer({"id": 1, "do": "verify-all", "tapes": [*map(dict, requests)]})

    for request, found in zip(requests, together["answers"], strict=True):
        alone = server.answer({"id": 2, "do": "replay", "mode": "verify", **request})
        assert without_numbers(found) == without_numbers(alone), request
    failing = [fails(each) for each in together["answers"]]
    assert failing == [False, True, True, True, False, True, True, True, True]


def test_pages_are_written_for_each_run_of_a_group(
    tmp_path: Path, tiny_folder: Path, record: Record
) -> None:
    tapes = write_tapes(tmp_path, tiny_folder, record)
    names: dict[str, list[str]] = {}
    for how in ("together", "alone"):
        asked = [{"tape": str(tapes[index]), "html": str(tmp_path / how)} for index in (0, 4)]
        if how == "together":
            Server().answer({"id": 1, "do": "verify-all", "tapes": asked})
        for each in asked if how == "alone" else ():
            Server().answer({"id": 1, "do": "replay", "mode": "verify", **each})
        names[how] = sorted(path.name for path in (tmp_path / how).iterdir())

    assert len(names["together"]) == 3
    assert names["together"] == names["alone"]


def test_an_unexpected_error_is_the_answer_of_its_tape_alone(
    tmp_path: Path, tiny_folder: Path, record: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest, *_ = write_tapes(tmp_path, tiny_folder, record)
    other = shutil.copy(honest, tmp_path / "other.tape")
    check = "tokentape.replay.tapes.tape_batch.check_unaltered"
    monkeypatch.setattr(
        check, lambda store, run_id: 1 / 0 if str(store.where).endswith("other.tape") else None
    )

    answer = Server().answer(
        {"id": 1, "do": "verify-all", "tapes": [{"tape": str(honest)}, {"tape": str(other)}]}
    )

    fine, failed = answer["answers"]
    assert fine["runs"]["0"]["failure"] == ""
    assert failed == {"error": "unexpected ZeroDivisionError: division by zero"}
