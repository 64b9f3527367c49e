"""Runs as a transcript database of Inspect Scout, read by Scout and by pyarrow."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

import tokentape as tt
from tokentape.recorder.events import TokenSampled
from tokentape.store import DatabaseStore

scout = pytest.importorskip("inspect_scout", reason="the extra `scout` is not installed")


def read(folder: Path) -> list[Any]:
    """Return the transcripts of a database with all their content, as Scout reads them."""
    from inspect_scout._transcript.types import TranscriptContent

    async def reading() -> list[Any]:
        whole = TranscriptContent(messages="all", events="all")
        async with scout.transcripts_from(str(folder)).reader() as reader:
            return [await reader.read(info, whole) async for info in reader.index()]

    return sorted(asyncio.run(reading()), key=lambda each: each.transcript_id)


@pytest.fixture(scope="module")
def transcripts(runs_db: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    folder = tmp_path_factory.mktemp("scout") / "transcripts of runs"
    with tt.open_store(runs_db) as store:
        tt.export_scout([store.recording(each.run_id) for each in store.summaries()], store, folder)
    return read(folder)


def test_each_run_is_a_transcript(transcripts: list[Any], recordings: list[tt.Recording]) -> None:
    assert [each.transcript_id for each in transcripts] == [each.run_id for each in recordings]
    first = transcripts[0]
    assert (first.source_type, first.task_id, first.task_repeat) == ("tokentape", "s-1", 2)
    assert (first.agent, first.model) == ("calls", "tiny-llama")
    assert first.message_count == len(first.messages) == 8
    assert first.source_uri == f"{recordings[0].where}#{recordings[0].run_id}"


def test_messages_and_tokens_are_those_of_the_recording(
    transcripts: list[Any], recordings: list[tt.Recording]
) -> None:
    recorded = [
        each.event.logprob
        for each in recordings[0].events()
        if isinstance(each.event, TokenSampled)
    ]
    rounds = [each for each in transcripts[0].events if each.event == "model"]
    read_back = [
        each.logprob for event in rounds for each in event.output.choices[0].logprobs.content
    ]

    said = [(each.role, each.content) for each in recordings[0].messages()]
    assert [(each.role, each.text) for each in transcripts[0].messages] == said
    assert read_back == recorded


def test_own_metadata_and_verdicts_are_columns_that_clash_with_none(
    transcripts: list[Any],
) -> None:
    metadata = transcripts[1].metadata

    # `messages` is a column of Scout.
    assert (metadata["run_messages"], metadata["depth"]) == ("taken", 3)
    assert metadata["tokentape"]["verdicts"] == {"verify": "verified"}
    assert transcripts[2].error == "RuntimeError: enough"


def test_a_second_export_adds_what_is_new(
    runs: DatabaseStore, recordings: list[tt.Recording], tmp_path: Path
) -> None:
    first = tt.export_scout(recordings[:1], runs, tmp_path)
    again = tt.export_scout(recordings[:1], runs, tmp_path)
    tt.export_scout(recordings, runs, tmp_path)

    assert first == again
    assert [each.transcript_id for each in read(tmp_path)] == [each.run_id for each in recordings]
    rows = [pq.read_metadata(each).num_rows for each in tmp_path.rglob("*.parquet")]
    assert sum(rows) == 3


def test_an_export_works_within_an_event_loop_and_prints_nothing(
    runs: DatabaseStore,
    recordings: list[tt.Recording],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    async def notebook() -> list[Path]:
        return tt.export_scout(recordings, runs, tmp_path / "t")

    assert len(asyncio.run(notebook())) == 1
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize(
    ("place", "fault"),
    [
        (lambda folder: folder / "file", "is a file"),
        (lambda folder: folder / "file" / "below", "cannot write to"),
    ],
)
def test_a_place_that_is_no_folder_is_refused(
    place: Callable[[Path], Path],
    fault: str,
    runs: DatabaseStore,
    recordings: list[tt.Recording],
    tmp_path: Path,
) -> None:
    (tmp_path / "file").write_text("mine", encoding="utf-8")

    with pytest.raises(tt.StoreError, match=fault):
        tt.export_scout(recordings, runs, place(tmp_path))

    assert (tmp_path / "file").read_text(encoding="utf-8") == "mine"
