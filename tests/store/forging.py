"""A forger who can write to a database: changes events, and computes all later seals again."""

import json
from typing import Any

from tests.tampering import without_triggers
from tokentape.recorder.codec import dump_canonical
from tokentape.recorder.projections import summarise_all
from tokentape.recorder.seals import SEALED_KINDS, SealChain
from tokentape.store import DatabaseStore
from tokentape.store.live.reader import SUMMARY_COLUMNS
from tokentape.store.live.tables import SEQ_BITS


def connection_of(store: DatabaseStore) -> Any:
    """Return the database's own connection."""
    connection: Any = store._engine.raw_connection().driver_connection
    connection.commit()
    connection.isolation_level = None
    return connection


def key_of(store: DatabaseStore, run_id: str) -> int:
    """Return the key of a run's first event."""
    query = "SELECT run_key FROM runs WHERE run_id = ?"
    return int(connection_of(store).execute(query, (run_id,)).fetchone()[0]) << SEQ_BITS


def reseal(store: DatabaseStore, run_id: str) -> None:
    """Replace the seals of a run by those of its events, and its summary, as they are now."""
    rows, key = connection_of(store), key_of(store, run_id)
    chain = SealChain(run_id)
    for record in list(store.recording(run_id).records()):
        if record.kind in SEALED_KINDS:
            seal = chain.seal_of(record)
            with without_triggers(rows):
                rows.execute(
                    "UPDATE events SET seal = ? WHERE event_key = ?", (seal, key + record.seq)
                )
            chain = SealChain(run_id, after_seal=seal)
        else:
            chain.add(record)
    summary = summarise_all(list(store.recording(run_id).events()))
    columns = [name for name in SUMMARY_COLUMNS if name != "run_id"]
    assigned = ", ".join(f"{name} = ?" for name in columns)
    values = [getattr(summary, name) for name in columns]
    with without_triggers(rows):
        rows.execute(f"UPDATE runs SET {assigned} WHERE run_id = ?", (*values, run_id))


def change_reply(store: DatabaseStore, run_id: str, turn: int, text: str) -> None:
    """Replace the text of a turn's reply, and seal the run again so that `check` sees nothing."""
    rows, key = connection_of(store), key_of(store, run_id)
    for record in list(store.recording(run_id).records()):
        if record.kind == "TurnFinished" and record.turn == turn:
            assert isinstance(record.body, str)
            body = json.loads(record.body) | {"text": text}
            with without_triggers(rows):
                rows.execute(
                    "UPDATE events SET body = ? WHERE event_key = ?",
                    (dump_canonical(body), key + record.seq),
                )
    reseal(store, run_id)


def cut_after_turn(store: DatabaseStore, run_id: str, turn: int) -> None:
    """Remove all events after the end of a turn, and make the summary fit."""
    rows, key = connection_of(store), key_of(store, run_id)
    end = max(
        each.seq
        for each in store.recording(run_id).records()
        if each.kind == "TurnFinished" and each.turn == turn
    )
    with without_triggers(rows):
        for table in ("events", "tokens"):
            rows.execute(
                f"DELETE FROM {table} WHERE event_key > ? AND event_key < ?",
                (key + end, key + (1 << SEQ_BITS)),
            )
    reseal(store, run_id)
