"""Runs that were resumed and forked have the same rows wherever they are kept."""

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import tokentape as tt
from tests.store.made_families import record_family
from tests.store.made_runs import verdict_of
from tokentape.store import DatabaseStore
from tokentape.store.frames.columns import FRAMES
from tokentape.store.source import Source

BY_TURN = [name for name in FRAMES if name not in ("runs_df", "verdicts_df")]


@pytest.fixture
def family(lm: tt.LoadedModel, store: DatabaseStore) -> tuple[str, str, str]:
    made = record_family(lm, store)
    store.add_verdict(verdict_of(made[1]))
    return made


@pytest.fixture
def copies(
    family: tuple[str, str, str], store: DatabaseStore, tmp_path: Path
) -> Iterator[dict[str, Source]]:
    """What the youngest brings along, in every form."""
    youngest = store.recording(family[-1])
    tape = tt.pack([youngest], store, tmp_path / "family.tape")
    tt.export_parquet(youngest, store, tmp_path / "sealed")
    lines = tt.export_jsonl([youngest], store, tmp_path / "family.jsonl")
    with ExitStack() as opened:
        imported = opened.enter_context(tt.open_store(tmp_path / "other.db"))
        assert isinstance(imported, DatabaseStore)
        tt.import_runs(lines, imported)
        yield {
            "a tape": opened.enter_context(tt.open_store(tape)),
            "a folder": opened.enter_context(tt.open_store(tmp_path / "sealed")),
            "imported lines": imported,
        }


def frame(name: str, source: Source, **asked: object) -> pd.DataFrame:
    made: Callable[..., pd.DataFrame] = getattr(tt, name)
    return made(source, **asked)


def test_every_copy_has_the_frames_of_the_live_store(
    family: tuple[str, str, str], store: DatabaseStore, copies: dict[str, Source]
) -> None:
    for name in FRAMES:
        live = frame(name, store)
        assert len(live)
        for source in copies.values():
            pd.testing.assert_frame_equal(frame(name, source), live)
    for source in copies.values():
        assert [tt.check(source, run_id).faults for run_id in family] == [(), (), ()]


def test_a_frame_has_the_rows_of_the_run_s_own(
    family: tuple[str, str, str], store: DatabaseStore, copies: dict[str, Source]
) -> None:
    """Shared events are under the id of the parent; the fork's recording includes them."""
    own_turns = ([1, 2, 3], [2, 3], [3])
    for source in (store, *copies.values()):
        for run_id, numbers in zip(family, own_turns, strict=True):
            assert frame("turns_df", source, run_id=run_id)["turn"].tolist() == numbers
            for name in BY_TURN:
                rows = frame(name, source, run_id=run_id)
                assert set(rows["run_id"]) <= {run_id}
                assert set(rows["turn"].dropna()) <= set(numbers)
            turns = [turn.number for turn in source.recording(run_id).turns()]
            assert turns == [1, 2, 3]
        seqs = frame("events_df", source, run_id=family[1])["seq"].tolist()
        assert seqs == list(range(len(seqs)))


def test_the_function_in_docs_analysis_gives_all_turns_of_a_fork(
    family: tuple[str, str, str], copies: dict[str, Source]
) -> None:
    page = (Path(__file__).parents[2] / "docs" / "analysis.md").read_text(encoding="utf-8")
    (shown,) = re.findall(r"```python\n(def all_turns.*?)```", page, flags=re.DOTALL)
    for source in copies.values():
        names: dict[str, Any] = {"tt": tt, "pd": pd, "store": source}
        exec(shown, names)
        for run_id in family:
            turns = source.recording(run_id).turns()
            texts = names["all_turns"](run_id)["text"].tolist()
            assert texts == [turn.reply_text for turn in turns]


def test_a_turn_that_went_on_in_another_process_is_one_row(
    family: tuple[str, str, str], store: DatabaseStore
) -> None:
    """And as many cache decisions as there were."""
    parent = family[0]
    third = frame("turns_df", store, run_id=parent, turns=3)
    decided = frame("cache_df", store, run_id=parent, turns=3)
    steps = frame("tokens_df", store, run_id=parent, turns=3)["step"].tolist()

    assert len(third) == 1
    assert third["stop_reason"].notna().all()
    assert len(decided) == 2
    assert steps == [0, 1, 2, 3]
    assert third["reused_tokens"].tolist() == decided["reused_tokens"].tolist()[:1]
    totals = frame("runs_df", store, run_id=parent)
    assert (
        totals["prompt_tokens"].item()
        == frame("cache_df", store, run_id=parent)["prompt_tokens"].sum()
    )


SHOWN = {
    "runs_df": ["name", "status", "error"],
    "turns_df": ["turn", "prompt_tokens", "decision", "stop_reason"],
    "tokens_df": ["turn", "step", "text", "logprob"],
    "top_logprobs_df": ["turn", "step", "rank", "text", "logprob"],
    "cache_df": ["turn", "decision", "reason"],
    "tools_df": ["turn", "name", "error"],
    "messages_df": ["turn", "role", "tokens", "tool"],
    "interventions_df": ["turn", "event", "name", "kind", "layers", "coefficient"],
    "activations_df": ["turn", "layer", "std", "mean"],
    "events_df": ["seq", "turn", "kind"],
    "verdicts_df": ["replay", "verdict", "reason"],
}


def test_the_columns_that_matter_are_shown_at_80_columns(
    family: tuple[str, str, str], store: DatabaseStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("LINES", "24")
    assert SHOWN.keys() == FRAMES.keys()
    for name, shown in SHOWN.items():
        with pd.option_context("display.max_columns", 0):
            header, *lines = repr(frame(name, store).head()).split("\n")

        # pandas 2 counts the width of some columns wrongly.
        assert max(map(len, [header, *lines])) <= (80 if pd.__version__ >= "3" else 84)
        assert set(shown) <= set(header.split())
        assert "run_id" not in header.split()
