"""A recording grows only with its new events, and a store with many runs stays fast."""

import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import event

import tokentape as tt
from tokentape.store import DatabaseStore

Cli = Callable[..., tuple[int, str, str]]


def test_a_late_turn_takes_no_more_room_than_an_early_one(
    lm: tt.LoadedModel, store: DatabaseStore
) -> None:
    """A prompt is a pointer into the stream; none is copied, however long the history is."""
    with tt.Investigation(
        lm, store=store, name="growth", system_prompt="Be kind. " * 20, seed=1
    ) as run:
        for _ in range(20):
            run.chat("Say the same again.", max_new_tokens=4, min_new_tokens=4)
    frame = tt.events_df(store, run.run_id)
    records = list(store.recording(run.run_id).records())
    sizes = {
        turn: sum(
            len(record.body)
            for record in records
            if record.turn == turn and isinstance(record.body, str)
        )
        for turn in range(1, 21)
    }
    prompts = [len(turn.prompt_ids) for turn in store.recording(run.run_id).turns()]

    assert prompts[19] > 3 * prompts[1]
    assert sizes[20] < 1.1 * sizes[2]
    assert len(frame) == len(records)


@pytest.fixture
def many_runs(tmp_path: Path) -> Path:
    """A store whose one run was copied ten thousand times, as rows of `runs`."""
    path = tmp_path / "runs.db"
    tt.open_store(path).close()
    with sqlite3.connect(path) as connection:
        connection.executemany(
            "INSERT INTO runs (run_id, name, status, model, seed, started_at_us, updated_at_us, "
            "turns, prompt_tokens, reused_tokens, generated_tokens) "
            "VALUES (?, ?, 'finished', 'tiny', 1, ?, ?, 20, 9, 5, 7)",
            ((f"run-{i:05}", f"name {i}", i * 1000, i * 1000) for i in range(10_000)),
        )
    connection.close()
    return path


def test_ten_thousand_runs_are_listed_with_one_question(many_runs: Path) -> None:
    asked: list[str] = []
    with tt.open_store(many_runs) as store:

        @event.listens_for(store._engine, "before_cursor_execute")
        def count(connection: object, cursor: object, statement: str, *rest: object) -> None:
            asked.append(statement)

        summaries = store.summaries()

    assert len(summaries) == 10_000
    assert len(asked) == 1
    assert "events" not in asked[0]


def test_a_list_shows_the_newest_and_says_how_many_there_are(many_runs: Path, cli: Cli) -> None:
    code, out, err = cli("list", "--store", str(many_runs))

    assert code == 0
    assert "run-09999" in out.splitlines()[-1]
    assert len(out.splitlines()) == 51
    assert "9,950 older runs: --last 0 shows all" in err
    assert len(cli("list", "--store", str(many_runs), "--last", "3")[1].splitlines()) == 4
