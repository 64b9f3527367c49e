"""The views of SQL equal the frames: the same rows, and every number to the bit."""

import json
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from sqlalchemy import text

import tokentape as tt
from tests.store.conftest import (
    ODD_TEXT,
    float32,
    odd_run,
    token,
    tool_returned,
    turn_started,
)
from tests.store.made_families import record_family
from tests.store.made_runs import verdict_of
from tests.store.view_rows import ORDER, assert_rows_are_frame
from tokentape.store import DatabaseStore
from tokentape.store.frames import frames
from tokentape.store.frames.columns import FRAMES

Record = Callable[..., list[str]]


def query(store: DatabaseStore, sql: str, **values: Any) -> list[Any]:
    with store._engine.connect() as connection:
        return list(connection.execute(text(sql), values).all())


def assert_view_is_frame(store: DatabaseStore, name: str) -> int:
    names = [each for each in FRAMES[name].names if each != "call"]
    viewed = query(store, f"SELECT {', '.join(names)} FROM {name} ORDER BY {ORDER[name]}")
    assert_rows_are_frame(name, viewed, getattr(frames, name)(store, columns=names))
    return len(viewed)


@pytest.mark.parametrize("name", FRAMES)
def test_a_view_has_the_rows_of_the_frame_of_its_name(
    live_store: DatabaseStore, record_oddities: Record, name: str
) -> None:
    record_oddities(live_store)

    assert assert_view_is_frame(live_store, name) >= 2


@pytest.mark.parametrize("name", FRAMES)
def test_the_view_of_an_empty_store_has_no_rows(live_store: DatabaseStore, name: str) -> None:
    assert assert_view_is_frame(live_store, name) == 0


def test_a_recorded_conversation_is_the_same_in_every_view(
    live_store: DatabaseStore, lm: tt.LoadedModel, record: Callable[..., tt.Recording]
) -> None:
    record(lm, live_store, tokens=3)
    record(lm, live_store, tokens=2)
    with tt.open_store("sqlite://") as other:
        record(lm, other, tokens=2)

    assert [assert_view_is_frame(live_store, name) for name in FRAMES] == [
        len(getattr(frames, name)(live_store)) for name in FRAMES
    ]


def test_a_family_of_runs_is_the_same_in_every_view(
    live_store: DatabaseStore, lm: tt.LoadedModel
) -> None:
    family = record_family(lm, live_store)
    for run_id in family:
        live_store.add_verdict(verdict_of(run_id))

    rows = {name: assert_view_is_frame(live_store, name) for name in FRAMES}
    assert (rows["runs_df"], rows["turns_df"], rows["verdicts_df"]) == (3, 6, 3)


def test_a_run_that_goes_on_after_a_turn_was_cut_off_is_the_same_in_every_view(
    live_store: DatabaseStore,
) -> None:
    recorder = tt.Recorder(live_store)
    for event in (
        odd_run(),
        turn_started(1, sampling={}),
        token(1, 0),
        tool_returned("call_1", "after the cut", None),
        turn_started(2, sampling={}),
        tool_returned("call_2", "", None),
        turn_started(3, sampling={"do_sample": True}),
    ):
        recorder.record(event)

    assert [assert_view_is_frame(live_store, name) for name in ("turns_df", "tools_df")] == [3, 2]
    assert tt.turns_df(live_store)["tool_results"].tolist() == [0, 1, 1]


def test_every_half_precision_number_and_width_of_ids_is_decoded(live_store: DatabaseStore) -> None:
    halves = np.arange(65536, dtype=np.uint16).view(np.float16)
    every = halves[np.isfinite(halves)].astype(float).reshape(124, 512).tolist()
    largest = (255, 65535, 2**24 - 1, 2**31 - 1)
    with tt.Recorder(live_store) as recorder:
        recorder.record(odd_run())
        recorder.record(turn_started(1, sampling={}))
        for step, numbers in enumerate(every):
            ids = tuple(largest[step % 4] - n % 251 for n in range(512))
            recorder.record(token(1, step, top_ids=ids, top_logprobs=tuple(numbers)))
    seen = query(
        live_store, "SELECT rank, token_id, logprob FROM top_logprobs_df ORDER BY seq, rank"
    )

    assert len(seen) == 63488
    assert [repr(row.logprob) for row in seen] == [repr(each) for row in every for each in row]
    assert [row.rank for row in seen] == list(range(512)) * 124
    assert [row.token_id for row in seen] == [
        largest[step % 4] - n % 251 for step in range(124) for n in range(512)
    ]


def test_any_float32_is_decoded_to_the_bit(live_store: DatabaseStore) -> None:
    bits = np.random.default_rng(5).integers(0, 2**32, 3000, np.uint64).astype(np.uint32)
    # Each exponent, with the smallest and the largest fraction, too.
    edges = np.arange(255, dtype=np.uint32) << 23
    every = np.concatenate([bits, edges, edges | 0x7FFFFF, edges | 0x80000000]).view(np.float32)
    numbers = every[np.isfinite(every)].astype(float).tolist()
    with tt.Recorder(live_store) as recorder:
        recorder.record(odd_run())
        recorder.record(turn_started(1, sampling={}))
        for step, number in enumerate(numbers):
            recorder.record(token(1, step, logprob=number, logprob_processed=float32(-number)))
    seen = query(live_store, "SELECT logprob, logprob_processed FROM tokens_df ORDER BY seq")

    assert [repr(row.logprob) for row in seen] == [repr(number) for number in numbers]
    assert [repr(row.logprob_processed) for row in seen] == [repr(-number) for number in numbers]


def test_a_call_has_its_arguments(live_store: DatabaseStore, record_oddities: Record) -> None:
    run_id, *_ = record_oddities(live_store)
    where = f"WHERE run_id = '{run_id}' ORDER BY returned_at"
    rows = query(live_store, f"SELECT CAST(arguments AS text) AS said FROM tools_df {where}")

    assert [row.said is None for row in rows] == [False, False, True]
    assert json.loads(rows[0].said) == {"at": ODD_TEXT.replace("\x00", "\ufffd"), "n": [1, None]}
    assert rows[1].said == "{}"


@pytest.mark.parametrize("name", [name for name in FRAMES if name != "runs_df"])
def test_rows_of_one_run_are_found_by_the_key_of_the_table(
    live_store: DatabaseStore, name: str
) -> None:
    sqlite = live_store._backend.name == "sqlite"
    with live_store._engine.connect() as connection:
        if not sqlite:
            # It would read a blank table from end to end.
            connection.execute(text("SET enable_seqscan TO off"))
        explain = "EXPLAIN QUERY PLAN" if sqlite else "EXPLAIN"
        lines = connection.execute(text(f"{explain} SELECT * FROM {name} WHERE run_id = 'x'"))
        plan = "\n".join(str(row) for row in lines)

    by_key = r"PRIMARY KEY \(rowid>|autoindex_verdicts_1 \(run_key=|(tokens|events|verdicts)_pkey"
    assert re.search(f"USING (INTEGER |INDEX sqlite_)({by_key})" if sqlite else by_key, plan), plan
    whole = "(SCAN|Seq Scan on) (tokens|events|verdicts)"
    assert not re.search(rf"{whole}\b", plan), plan


def test_what_was_recorded_cannot_be_changed_through_a_view(
    live_store: DatabaseStore, record_oddities: Record
) -> None:
    record_oddities(live_store)
    for name in FRAMES:
        with pytest.raises(Exception, match=r"cannot|append-only|not deleted"):
            query(live_store, f"DELETE FROM {name}")
