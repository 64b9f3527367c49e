"""Frames, views and files mark the tokens that the experimenter chose."""

import csv
from pathlib import Path

import pytest
from sqlalchemy import text

import tokentape as tt
from tokentape.store import DatabaseStore
from tokentape.store.source import Source


@pytest.fixture
def runs(lm: tt.LoadedModel, store: DatabaseStore) -> tuple[str, str, str]:
    """A run whose second reply is begun, its fork at token 3 of turn 1, and a run without any."""
    with tt.Investigation(lm, store=store, name="probe", system_prompt="Be kind.") as run:
        run.chat("One?", max_new_tokens=6)
        run.chat("Two?", max_new_tokens=6, reply_prefix="abc")
    fork = tt.Investigation.fork(store, run.run_id, lm, at_turn=1, at_token=3, token="x")
    with fork:
        fork.chat("Two?", max_new_tokens=6, reply_prefix="ab")
    with tt.Investigation(lm, store=store, name="plain", system_prompt="Be kind.") as plain:
        plain.chat("One?", max_new_tokens=6)
    return run.run_id, fork.run_id, plain.run_id


def _marked(store: Source, run_id: str) -> list[tuple[int, int]]:
    frame = tt.tokens_df(store, run_id)
    chosen = frame[frame["forced"]]
    return [*zip(chosen["turn"].tolist(), chosen["step"].tolist(), strict=True)]


@pytest.mark.parametrize("where", ["live", "sealed", "one.tape"])
def test_tokens_df_marks_tokens_of_the_experimenter(
    store: DatabaseStore, runs: tuple[str, str, str], where: str, tmp_path: Path
) -> None:
    run_id, fork_id, plain_id = runs
    read: Source = store
    recordings = [store.recording(each) for each in runs]
    if where == "one.tape":
        read = tt.open_store(tt.pack(recordings, store, tmp_path / where))
    elif where == "sealed":
        for each in recordings:
            tt.export_parquet(each, store, tmp_path / where)
        read = tt.open_store(tmp_path / where)

    assert _marked(read, run_id) == [(2, 0), (2, 1), (2, 2)]
    assert _marked(read, fork_id) == [(1, 3), (2, 0), (2, 1)]
    assert _marked(read, plain_id) == []
    alone = tt.tokens_df(read, [plain_id, run_id], turns=2, columns=["forced"])
    assert alone["forced"].tolist() == [True] * 3 + [False] * 3
    assert alone["forced"].dtype == bool


def test_the_view_and_csv_mark_the_same_tokens(
    store: DatabaseStore, runs: tuple[str, str, str], tmp_path: Path
) -> None:
    frame = tt.tokens_df(store)
    with store._engine.connect() as connection:
        query = "SELECT forced FROM tokens_df ORDER BY run_id, seq"
        viewed = [bool(each) for (each,) in connection.execute(text(query))]
    assert viewed == frame["forced"].tolist()
    assert sum(viewed) == 6

    tt.export_csv(store, runs[1], tmp_path)
    with (tmp_path / "tokens.csv").open(encoding="utf-8") as file:
        written = [row["forced"] for row in csv.DictReader(file)]
    assert written.count("true") == 3
    assert len(written) == written.count("true") + written.count("false")
