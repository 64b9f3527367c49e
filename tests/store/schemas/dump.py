"""Dump a small store as SQL, to keep the schema of a release.

Run `python -m tests.store.schemas.dump tests/store/schemas/VERSION.sql` once, at the release. Every
later version must read and upgrade what the dump holds, so it never changes again.
"""

import sqlite3
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import tokentape as tt
from tests.store.made_families import fork, go_on, short_run
from tests.store.made_runs import begin, floor_of, make_run, say, verdict_of
from tokentape.store import DatabaseStore


def record(store: DatabaseStore) -> None:
    """Record runs of every status, a fork, payloads, a verdict, a floor and a tombstone."""
    finished = make_run(store, turns=4)
    store.add_verdict(verdict_of(finished))
    store.add_floor(floor_of(finished))
    parent = short_run(store)
    go_on(store, parent, turn=3)
    fork(store, parent, at_turn=2)
    say(begin(store), 1, tokens=2)
    failed = begin(store)
    say(failed, 1, tokens=2)
    failed.fail(RuntimeError("enough"))
    store.erase(make_run(store, turns=1), reason="to keep a tombstone", clock_us=lambda: 10**15)


def main(path: Path) -> None:
    with TemporaryDirectory() as folder:
        made = Path(folder, "runs.db")
        with tt.open_store(made) as store:
            assert isinstance(store, DatabaseStore)
            record(store)
        connection = sqlite3.connect(made)
        path.write_text("\n".join(connection.iterdump()) + "\n", encoding="utf-8")
        connection.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
