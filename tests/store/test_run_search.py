"""Runs are found by name, model, plan, status, tags, time and what was said, in every store."""

import itertools
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import tokentape as tt
from tests.made_events import run_started
from tests.store.made_runs import say
from tokentape.recorder.events import MessageAdded
from tokentape.store import DatabaseStore, ParquetStore
from tokentape.store.run_conditions import time_us
from tokentape.store.run_names import short_ids

DAY_US = 86_400_000_000
NOW_US = 1_800_000_000_000_000
AnyStore = DatabaseStore | ParquetStore


def message(content: str) -> MessageAdded:
    return MessageAdded(role="user", content=content, text="", ids=())


def fill(store: DatabaseStore) -> None:
    """Record three runs, a day apart: `aa`, `bb` and `cc`."""
    started = run_started(name="Probe of norms", model="tiny-llama")
    plan = started.settings | {"plan": {"name": "phase1b", "turns": []}}
    runs = (
        ("aa", started, ["Straße nach Zürich", "\u212a"]),
        ("bb", replace(started, name="probe", settings=plan), ['say "when"\n\u4f60\u597d\u4e16']),
        ("cc", replace(started, name="50% [of] it?", model="smol*"), ["nothing here"]),
    )
    for place, (run_id, event, contents) in enumerate(runs):
        clock = itertools.count(NOW_US + place * DAY_US, 1000).__next__
        recorder = tt.Recorder(store, run_id=run_id, clock_us=clock)
        recorder.record(event)
        for content in contents:
            recorder.record(message(content))
        say(recorder, 1, tokens=1)
        say(recorder, 2, tokens=1, payload=b"x" if run_id == "cc" else b"")
        recorder.finish()
    store.tag("aa", "good", "old")
    store.tag("bb", "good")


@pytest.fixture(scope="module", params=["sqlite", "postgresql", "parquet", "tape", "read-only"])
def store(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[AnyStore]:
    folder = tmp_path_factory.mktemp(request.param)
    where = str(folder / "runs.db")
    if request.param == "postgresql":
        where = request.getfixturevalue("make_postgres_url")()
    with tt.open_store(where) as live:
        assert isinstance(live, DatabaseStore)
        fill(live)
        recordings = [live.recording(each) for each in ("aa", "bb", "cc")]
        if request.param == "parquet":
            for each in recordings:
                tt.export_parquet(each, live, folder / "sealed")
            where = str(folder / "sealed")
        if request.param == "tape":
            where = str(tt.pack(recordings, live, folder / "all.tape"))
    if request.param == "read-only":
        where = f"sqlite:///{where}?mode=ro"
    with tt.open_store(where) as opened:
        yield opened


@pytest.mark.parametrize(
    ("where", "found"),
    [
        ({}, "aa bb cc"),
        ({"name": "PROBE"}, "aa bb"),
        ({"name": "probe*norms"}, "aa"),
        ({"name": "probe?"}, ""),
        ({"name": "[of]"}, "cc"),
        ({"name": "*[of]*"}, "cc"),
        ({"model": "llama", "tag": "old"}, "aa"),
        ({"plan": "phase1"}, "bb"),
        ({"plan": "phase1?"}, "bb"),
        ({"status": "finished"}, "aa bb cc"),
        ({"status": "running"}, ""),
        ({"tag": "good"}, "aa bb"),
        ({"tag": ["good", "old"]}, "aa"),
        ({"tag": "goo"}, ""),
        ({"since": datetime.fromtimestamp(NOW_US / 1e6 + 3600, UTC)}, "bb cc"),
        ({"until": datetime.fromtimestamp(NOW_US / 1e6 + 3600, UTC)}, "aa"),
        ({"since": "1d"}, "aa bb cc"),
        ({"said": "strasse"}, ""),
        ({"said": "STRASSE NACH".replace("SS", "ß")}, "aa"),
        ({"said": "zürich"}, "aa"),
        ({"said": "k"}, "aa"),
        ({"said": 'say "WHEN"\n'}, "bb"),
        ({"said": "好世"}, "bb"),
        ({"said": 'seen \u2028 "É" \U0001f600'}, "cc"),
        ({"said": "so"}, "aa bb cc"),
        ({"said": "payload"}, ""),
        ({"said": "%"}, ""),
        ({"said": "say", "name": "norms"}, ""),
    ],
    ids=str,
)
def test_runs_that_fulfil_all_conditions_are_listed(
    store: AnyStore, where: Any, found: str
) -> None:
    assert [each.run_id for each in store.summaries(**where)] == found.split()
    if where:
        assert tt.runs_df(store, **where)["run_id"].tolist() == found.split()


@pytest.mark.parametrize(
    ("where", "complaint"),
    [
        ({"titel": "x"}, "not selected by 'titel', but by name, model, plan"),
        (
            {"status": "done"},
            "a status is running, finished, interrupted, failed, imported, not 'done'",
        ),
        ({"since": "yesterday"}, "'yesterday' is no time: write 2026-11-27"),
        ({"since": "2026-13-01"}, "is no time"),
        ({"until": 3}, "3 is no time"),
        ({"said": " "}, "the text that was said is empty"),
    ],
)
def test_conditions_that_mean_nothing_are_refused(
    store: AnyStore, where: Any, complaint: str
) -> None:
    with pytest.raises(tt.StoreError, match=complaint):
        store.summaries(**where)


def test_times_are_local_unless_they_say_a_zone_and_a_date_is_a_whole_day() -> None:
    day = datetime(2026, 11, 27)
    day_us = round(day.timestamp() * 1e6)

    assert time_us("2026-11-27", 0) == time_us(date(2026, 11, 27), 0) == day_us
    assert time_us("2026-11-27", 0, end=True) == day_us + DAY_US
    assert time_us("2026-11-27 06:00", 0, end=True) == day_us + DAY_US // 4
    assert time_us("2026-11-27T06:00Z", 0) == time_us(datetime(2026, 11, 27, 6, tzinfo=UTC), 0)
    assert time_us("1.5h", NOW_US) == NOW_US - 5_400_000_000
    assert time_us("90min", NOW_US) == time_us(" 5400 s ", NOW_US) == time_us("1.5h", NOW_US)
    assert time_us(day + timedelta(hours=6), 0) == day_us + DAY_US // 4


def test_a_damaged_event_hides_no_other(tmp_path: Path) -> None:
    with tt.open_store(tmp_path / "runs.db") as store:
        assert isinstance(store, DatabaseStore)
        fill(store)
        connection = store._writer.driver_connection
        (sql,) = connection.execute(
            "SELECT sql FROM sqlite_master WHERE name = 'events_refuse_update'"
        ).fetchone()
        connection.execute("DROP TRIGGER events_refuse_update")
        connection.execute("UPDATE events SET body = replace(body, 'Zürich', 'Zürich\"')")
        connection.execute(sql)
        assert store.summaries(said="Zürich") == []
        assert [each.run_id for each in store.summaries(said="nothing here")] == ["cc"]


@given(st.lists(st.text("ab", min_size=1, max_size=6), unique=True), st.integers(1, 4))
def test_short_ids_begin_no_other_id(ids: list[str], least: int) -> None:
    for run_id, short in zip(ids, short_ids(ids, ids, least=least), strict=True):
        assert run_id.startswith(short)
        assert len(short) >= min(least, len(run_id))
        begun = [each for each in ids if each.startswith(short)]
        # An id that begins another one is whole, and found as such.
        assert begun == [run_id] or short == run_id
