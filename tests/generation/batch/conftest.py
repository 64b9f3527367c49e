"""A store for several threads, and conversations to run at once."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import tokentape as tt
from tokentape.store import DatabaseStore


@pytest.fixture
def store(tmp_path: Path) -> Iterator[DatabaseStore]:
    with tt.open_store(f"sqlite:///{tmp_path}/runs.db") as opened:
        yield opened


@pytest.fixture
def replies(store: DatabaseStore) -> Callable[[str], list[tuple[int, ...]]]:
    """Return a function that reads the replies of a run."""

    def read(run_id: str) -> list[tuple[int, ...]]:
        return [turn.reply_ids for turn in store.recording(run_id).turns()]

    return read
