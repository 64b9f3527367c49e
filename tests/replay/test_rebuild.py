"""A run is rebuilt from its events alone."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import tokentape as tt
from tokentape.store import DatabaseStore


def test_ids_and_texts_come_back_exactly(lm: tt.LoadedModel, store: DatabaseStore) -> None:
    said: list[tuple[tuple[int, ...], str]] = []
    prompts: list[tuple[tuple[int, ...], str]] = []
    with tt.Investigation(lm, store=store, name="t", system_prompt="Be kind.") as run:
        for turn in range(4):
            reply = run.chat(f"Question {turn}?", max_new_tokens=9, do_sample=turn % 2 == 1)
            said.append((reply.token_ids, reply.text))
            stream = run.generator.conversation
            prompts.append((stream.ids[: -len(reply.token_ids)], stream.text))
    rebuilt = tt.rebuild(store.recording(run.run_id))

    assert [(turn.reply_ids, turn.reply_text) for turn in rebuilt.turns] == said
    assert [turn.prompt_ids for turn in rebuilt.turns] == [ids for ids, _ in prompts]
    for turn, (_, text) in zip(rebuilt.turns, prompts, strict=True):
        assert turn.finished is not None
        assert turn.prompt_text + turn.finished.text + turn.finished.stop_text == text
    assert [message.role for message in rebuilt.messages] == ["system", *["user", "assistant"] * 4]


def test_reading_a_recording_imports_no_torch(
    tmp_path: Path, lm: tt.LoadedModel, record: Callable[..., tt.Recording]
) -> None:
    with tt.open_store(tmp_path / "runs.db") as store:
        run_id = record(lm, store).run_id
    program = (
        "import sys; from store import open_store;"
        f"recording = open_store(sys.argv[1]).recording({run_id!r});"
        "print(len(recording.turns()), 'torch' in sys.modules, 'transformers' in sys.modules)"
    )
    result = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "runs.db")],
        capture_output=True,
        text=True,
        check=True,
    )

    assert result.stdout.split() == ["4", "False", "False"]


def test_altered_ids_of_the_system_prompt_are_refused(
    tmp_path: Path,
    lm: tt.LoadedModel,
    record: Callable[..., tt.Recording],
    forged: Callable[[Path, str], Path],
) -> None:
    with tt.open_store(tmp_path / "runs.db") as store:
        run_id = record(lm, store).run_id
    with (
        tt.open_store(forged(tmp_path / "runs.db", "system_word_alone")) as copy,
        pytest.raises(tt.RecordingError, match="recorded sha256"),
    ):
        tt.rebuild(copy.recording(run_id))
