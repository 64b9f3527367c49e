"""Verdicts and floors are stored with their run, once each, until it is erased."""

import json
import sqlite3
import struct
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from enum import StrEnum
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

import tokentape as tt
from tests.store.made_runs import begin, floor_of, make_run, verdict_of
from tests.tampering import without_triggers
from tokentape.recorder.codec import encode
from tokentape.recorder.events import CacheCleared
from tokentape.store import DatabaseStore, StoredFloor

SECRET = "the-parrot-is-in-the-attic"


def test_a_report_is_made_plain_and_a_time_whole_microseconds() -> None:
    class Verdict(StrEnum):
        EXACT = "exact"

    kept = verdict_of(
        "r",
        at_us=1_234_567,
        verdict=Verdict.EXACT,
        report={"margins": (None, 0.5), "off": [float("nan"), float("-inf")], "v": Verdict.EXACT},
    )

    assert kept.at_us == 1_234_567
    assert (type(kept.verdict), kept.verdict) == (str, "exact")
    assert kept.report == {"margins": [None, 0.5], "off": [None, None], "v": "exact"}
    assert type(kept.report["v"]) is str


def test_what_a_replay_reports_is_kept_whole(
    store: DatabaseStore, lm: tt.LoadedModel, record: Callable[..., tt.Recording]
) -> None:
    recording = record(lm, store, tokens=3)
    report = tt.verify(recording, lm)
    kept = verdict_of(recording.run_id, verdict=report.verdict, report=report.to_dict())
    store.add_verdict(kept)
    row = tt.verdicts_df(store).iloc[0]

    assert store.verdicts(recording.run_id) == [kept]
    assert kept.report == json.loads(json.dumps(report.to_dict()))
    assert (row["turns"], row["tokens"]) == (4, len(tt.tokens_df(store)))
    assert row["reason"] == report.reason
    assert row["margin_max"] == max(turn.margin_max for turn in report.turns)
    assert report.floor is not None
    assert row["floor_version"] == report.floor.version


NESTED: list[Any] = []
for _ in range(100_000):
    NESTED = [NESTED]


@pytest.mark.parametrize(
    "changes",
    [
        {"report": None},
        {"report": [1]},
        {"report": {"set": {1}}},
        {"report": {"lone": "\ud800"}},
        {"report": {("a",): 1}},
        {"report": {"deep": NESTED}},
        {"replay": ""},
        {"replay": "two\nlines"},
        {"verdict": "x" * 81},
        {"verdict": None},
        {"at_us": -1},
        {"at_us": 2**63},
        {"at_us": 1.5},
        {"at_us": True},
    ],
)
def test_what_no_store_could_give_back_is_refused_in_one_line(changes: dict[str, Any]) -> None:
    with pytest.raises(tt.StoreError, match="of run 'r' cannot be stored: ") as caught:
        verdict_of("r", **changes)
    assert "\n" not in str(caught.value)


def test_the_same_again_changes_nothing_and_another_is_another(live_store: DatabaseStore) -> None:
    run_id, other_id = make_run(live_store, turns=1), make_run(live_store, turns=1)
    kept = [
        verdict_of(run_id, 2000),
        verdict_of(run_id, 3000),
        verdict_of(run_id, 3000, replay="regenerate"),
        verdict_of(run_id, 3000, report={}),
    ]
    for _ in range(2):
        for verdict in kept:
            live_store.add_verdict(verdict)
        live_store.add_verdict(verdict_of(other_id, 1000))
        live_store.add_floor(floor_of(run_id))

    found = live_store.verdicts(run_id)
    assert [each.at_us for each in found] == [2000, 3000, 3000, 3000]
    assert all(each in found for each in kept)
    assert live_store.verdicts(other_id) == [verdict_of(other_id, 1000)]
    assert live_store.floors(run_id) == [floor_of(run_id)]
    assert tt.check(live_store, run_id).ok


def test_nothing_is_kept_beside_a_run_that_is_not_there(live_store: DatabaseStore) -> None:
    run_id = make_run(live_store, turns=1)
    with pytest.raises(tt.NoSuchRunError, match="has no run nobody"):
        live_store.add_verdict(verdict_of("nobody"))
    with pytest.raises(tt.NoSuchRunError, match=f"has no run {run_id[:-1]}"):
        live_store.add_floor(floor_of(run_id[:-1]))
    live_store.erase(run_id, reason="asked for")
    with pytest.raises(tt.NoSuchRunError, match=r"was erased on .*: asked for"):
        live_store.add_verdict(verdict_of(run_id))


FORCE = {
    "sqlite": "REPLACE INTO floors SELECT run_key, at_us, sha256, 'x', floor FROM floors",
    "postgresql": "TRUNCATE verdicts",
}


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE verdicts SET verdict = 'exact'",
        "DELETE FROM verdicts",
        "UPDATE floors SET version = ''",
        "DELETE FROM floors",
        "UPDATE run_labels SET text = 'y'",
        "DELETE FROM run_labels",
        "INSERT INTO run_labels SELECT run_key + 7, at_us, sha256, label, text FROM run_labels",
        "INSERT INTO floors SELECT run_key + 7, at_us, sha256, version, floor FROM floors",
        "by force",
    ],
)
def test_the_database_itself_keeps_them_as_they_are(
    live_store: DatabaseStore, statement: str
) -> None:
    statement = FORCE[live_store._backend.name] if statement == "by force" else statement
    run_id = make_run(live_store, turns=1)
    live_store.add_verdict(verdict_of(run_id))
    live_store.add_floor(floor_of(run_id))
    live_store.tag(run_id, "x")
    with live_store._engine.connect() as connection:
        with pytest.raises(DBAPIError, match=r"append-only|no such run"):
            connection.execute(text(statement))
        connection.rollback()

    assert live_store.verdicts(run_id) == [verdict_of(run_id)]
    assert live_store.floors(run_id) == [floor_of(run_id)]


def test_a_large_report_takes_a_fraction_of_its_text(store: DatabaseStore) -> None:
    run_id = make_run(store, turns=1)
    report = {"margins": [0.0] * 2000, "logprob_differences": [n / 7e6 for n in range(2000)]}
    store.add_verdict(verdict_of(run_id, report=report))
    with store._engine.connect() as connection:
        size = connection.execute(text("SELECT length(report) FROM verdicts")).scalar_one()

    assert size < len(json.dumps(report)) / 2
    assert store.verdicts(run_id)[0].report == report


def test_erasing_a_run_leaves_no_byte_of_what_was_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "runs.db"
    with tt.open_store(path) as store:
        assert isinstance(store, DatabaseStore)
        run_id, kept_id = make_run(store), make_run(store)
        report = {"reason": SECRET, "texts": [f"{SECRET} {number * 7919}" for number in range(300)]}
        store.add_verdict(verdict_of(run_id, report=report))
        floor = {"noise": [number / 7919 for number in range(300)]}
        store.add_floor(StoredFloor(run_id=run_id, at_us=0, version=SECRET, floor=floor))
        store.add_verdict(verdict_of(kept_id))
        with store._engine.connect() as connection:
            report_bytes = connection.execute(text("SELECT report FROM verdicts")).scalars().all()
            floor_bytes = connection.execute(text("SELECT floor FROM floors")).scalars().all()
        long = next(each for each in report_bytes if len(each) > 1000)
        # Long values continue on other pages: a piece of the middle is in one.
        traces = [SECRET.encode(), long[700:720], floor_bytes[0][300:320]]
        before = [
            any(trace in each.read_bytes() for each in tmp_path.iterdir()) for trace in traces
        ]
        erasure = store.erase(run_id)

        assert before == [True] * 3
        assert erasure.residue == ""
        for trace in traces:
            assert not any(trace in each.read_bytes() for each in tmp_path.iterdir())
        assert store.verdicts(kept_id) == [verdict_of(kept_id)]
        assert store.verdicts(run_id) == store.floors(run_id) == []


@pytest.mark.parametrize("what", ["a verdict", "an event"])
def test_what_is_on_its_way_to_a_run_that_is_erased_is_erased_or_refused(
    live_store: DatabaseStore, what: str
) -> None:
    run_id = begin(live_store).run_id
    url = live_store._engine.url.render_as_string(hide_password=False)

    def write(store: DatabaseStore, seq: int) -> None:
        if what == "a verdict":
            store._insert_attachment(1, verdict_of(run_id, seq * 1000))
        else:
            cleared = CacheCleared(reason=SECRET, freed_bytes=0)
            store._append(run_id, encode(tt.Envelope(run_id, seq, 10**15, cleared, 1)))

    with tt.open_store(url) as other, ThreadPoolExecutor() as pool:
        assert isinstance(other, DatabaseStore)
        with other._transaction(run_id, "", durable=False):
            write(other, 1)
            erasing = pool.submit(live_store.erase, run_id)
            # It waits for the transaction.
            with pytest.raises(TimeoutError):
                erasing.result(timeout=0.3)
        erasing.result()
        with (
            pytest.raises(tt.StoreError, match="was erased on"),
            other._transaction(run_id, "", durable=False),
        ):
            other._insert_attachment(1, verdict_of(run_id))
    with live_store._engine.connect() as connection:
        for table in ("runs", "events", "verdicts"):
            assert connection.execute(text(f"SELECT count(*) FROM {table}")).scalar_one() == 0


@pytest.mark.parametrize(
    "harm",
    [
        "report = x'00'",
        "report = 'text'",
        "at_us = at_us + 1000",
        "verdict = 'exact'",
        "reason = 'all is lost'",
        "model = 'another'",
        "floor_version = 'another'",
        "turns = 3",
        "tokens = 3",
        "mismatches = 1",
        "near_ties = 1",
        "logprob_difference_max = 0.0",
        "margin_max = -1.5",
        "duration_us = 7",
        "replay = ''",
        f"report = x'{zlib.compress(b'[]').hex()}'",
        f"report = x'{zlib.compress(b'{').hex()}'",
        f"report = x'{zlib.compress(struct.pack('<d', -1.5)).hex()}'",
        f"report = x'{zlib.compress(b'[' * 100_000).hex()}'",
    ],
)
def test_a_row_that_was_changed_is_refused_in_one_line(tmp_path: Path, harm: str) -> None:
    path = tmp_path / "runs.db"
    with tt.open_store(path) as store:
        assert isinstance(store, DatabaseStore)
        run_id = make_run(store, turns=1)
        store.add_verdict(verdict_of(run_id))
    with closing(sqlite3.connect(path)) as connection, without_triggers(connection):
        connection.execute(f"UPDATE verdicts SET {harm}")
    with tt.open_store(path) as store:
        with pytest.raises(tt.StoreError, match=f"a row of verdicts of run {run_id} ") as caught:
            store.verdicts(run_id)
        assert "\n" not in str(caught.value)
        (fault,) = tt.check(store, run_id).faults
        assert f"a row of verdicts of run {run_id} " in fault


def test_figures_that_are_no_numbers_are_refused_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "runs.db"
    with tt.open_store(path) as store:
        store.add_verdict(verdict_of(make_run(store, turns=1)))
    with closing(sqlite3.connect(path)) as connection, without_triggers(connection):
        connection.execute("UPDATE verdicts SET tokens = 'many'")
    with (
        tt.open_store(path) as store,
        pytest.raises(tt.StoreError, match=r"verdicts in .* are damaged"),
    ):
        tt.verdicts_df(store)
