"""Several processes use one store at once, which none of them may have made yet."""

import itertools
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import tokentape as tt
from tests.store.crash import ROOT, Process, Processes, digest, processes, record_script, started
from tests.store.made_runs import append_all, begin, make_run, say
from tokentape.recorder.events import CacheCleared
from tokentape.store import DatabaseStore
from tokentape.store.live.schema import head

NAMES = [f"run {index}" for index in range(8)]


@pytest.fixture(scope="module")
def recorders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Processes]:
    with processes(tmp_path_factory.mktemp("pipes")) as started_here:
        yield started_here


@pytest.fixture(params=["sqlite", "postgresql"])
def where(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The place of a store that does not exist yet."""
    if request.param == "sqlite":
        return str(tmp_path / "runs.db")
    return str(request.getfixturevalue("postgres_url"))


def live(where: str) -> DatabaseStore:
    store = tt.open_store(where)
    assert isinstance(store, DatabaseStore)
    return store


def finish(running: list[Process]) -> None:
    """Wait until each has recorded all of its run; an error in one fails the test."""
    said = [process.wait() for process in running]
    assert [each.error for each in said] == [""] * len(said)
    assert all(each.finished for each in said)


def test_eight_record_into_a_store_that_none_has_made(where: str, recorders: Processes) -> None:
    running = [recorders.start(where, name, turns=12) for name in NAMES]
    finish(running)
    with live(where) as store:
        names = {each.run_id: each.name for each in store.summaries()}

        assert sorted(names.values()) == NAMES
        for process, name in zip(running, NAMES, strict=True):
            records = list(store.recording(process.said.run_id).records())
            finished = records.pop()
            assert names[process.said.run_id] == name
            assert [digest(record) for record in records] == process.said.events
            assert (finished.seq, finished.kind) == (len(records), "RunFinished")
            assert tt.check(store, process.said.run_id).ok


def test_of_two_that_begin_one_run_one_is_refused(where: str, recorders: Processes) -> None:
    live(where).close()
    for index in range(6):
        run_id = f"00000000-0000-7000-8000-{index:012}"
        said = [
            process.wait()
            for process in [
                recorders.start(where, name, run_id=run_id, turns=2) for name in ("a", "b")
            ]
        ]
        (winner,), (loser,) = (
            [each for each in said if each.finished == wanted] for wanted in (True, False)
        )
        with live(where) as store:
            records = list(store.recording(run_id).records())

            assert loser.events == []
            assert "a run has one writer" in loser.error
            assert [digest(record) for record in records[:-1]] == winner.events
            assert tt.check(store, run_id).ok


# Both write events 1 to 200 of a run of another process; a refused one tries the next.
RACER = """
import random, sys, time
from tokentape.recorder import Envelope
from tokentape.recorder.codec import encode
from tokentape.recorder.events import CacheCleared, TokenSampled
from tokentape.store import StoreError, open_store

where, run_id, me = sys.argv[1:]
with open_store(where) as store:
    print("ready", flush=True)
    sys.stdin.readline()
    won, refused = [], set()
    for seq in range(1, 201):
        token = TokenSampled(
            turn=1, step=seq, position=seq, token_id=int(me), logprob=0.0, logprob_processed=0.0,
            entropy=0.0, top_gap=0.0, duration_us=0,
        )
        cleared = CacheCleared(reason=me, freed_bytes=seq)
        event = token if (seq + int(me)) % 2 else cleared
        try:
            envelope = Envelope(run_id, seq, 10**15, event, 1)
            store.append(envelope, encode(envelope), durable=False, summary=None)
            won.append(seq)
            # So that each is the first now and then.
            time.sleep(random.choice((0, 0.005)))
        except StoreError as error:
            refused.add(str(error).replace(f"event {seq},", "event N,"))
print(won, sorted(refused), sep="\\n")
"""


def test_of_two_writers_of_one_run_one_wins_each_event(where: str) -> None:
    with live(where) as store:
        run_id = "00000000-0000-7000-8000-000000000000"
        append_all(store, [tt.Envelope(run_id, 0, 10**15, started("raced"))])
        racers = [
            subprocess.Popen(
                [sys.executable, "-c", RACER, where, run_id, me],
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for me in "12"
        ]
        for racer in racers:
            assert racer.stdout is not None
            assert racer.stdout.readline() == "ready\n"
        for racer in racers:
            assert racer.stdin is not None
            racer.stdin.write("go\n")
            racer.stdin.flush()
        answers = [racer.communicate()[0].splitlines() for racer in racers]
        won = [set(eval(first)) for first, _ in answers]
        refused = set(itertools.chain.from_iterable(eval(second) for _, second in answers))
        events = [each.event for each in store.recording(run_id).events()][1:]
        writers = [
            int(event.reason) if isinstance(event, CacheCleared) else event.token_id
            for event in events
        ]

        assert won[0] | won[1] == set(range(1, len(events) + 1))
        assert not won[0] & won[1]
        assert won[0]
        assert won[1]
        assert writers == [1 if seq in won[0] else 2 for seq in range(1, len(events) + 1)]
        assert len(refused) == 1
        assert "a run has one writer" in refused.pop()


def test_a_reader_never_sees_a_hole_while_others_record(where: str, recorders: Processes) -> None:
    live(where).close()
    running = [recorders.start(where, name) for name in NAMES[:2]]
    with live(where) as store:
        for _ in range(4):
            for process in running:
                process.follow(seconds=30, events=len(process.said.events) + 20)
                recording = store.recording(process.said.run_id)
                envelopes = list(recording.events())

                assert len(envelopes) >= len(process.said.events) >= 20
                assert [each.seq for each in envelopes] == list(range(len(envelopes)))
                assert [turn.number for turn in recording.turns()][:1] in ([], [1])
                assert tt.check(store, process.said.run_id).faults == ()
        assert {each.status for each in store.summaries()} == {"running"}
    killed = [process.kill() for process in running]
    assert [each.error for each in killed] == ["", ""]


def test_a_run_is_erased_while_another_is_recorded(where: str, recorders: Processes) -> None:
    with live(where) as store:
        gone = [record_script(store, "gone", turns=4, seed=index) for index in range(3)]
        running = recorders.start(where, "recorded")
        for run_id in gone:
            running.follow(seconds=30, events=len(running.said.events) + 20)
            store.erase(run_id, reason="wanted")
        running.follow(seconds=30, events=len(running.said.events) + 20)
        said = running.kill()
        (left,) = store.summaries()
        records = list(store.recording(said.run_id).records())

        assert said.error == ""
        assert left.run_id == said.run_id
        assert len(said.events) <= len(records) <= len(said.events) + 1
        assert [digest(record) for record in records[: len(said.events)]] == said.events
        assert tt.check(store, said.run_id).faults == ()


def test_who_records_a_run_that_was_erased_cannot_write_into_the_next(where: str) -> None:
    with live(where) as store, live(where) as other:
        mine = tt.Recorder(other)
        mine.record(started("erased"))
        store.erase(mine.run_id)
        with tt.Recorder(store) as recorder:
            recorder.record(started("next"))
            with pytest.raises(tt.StoreError, match="was erased on"):
                mine.record(CacheCleared(reason="late", freed_bytes=0))
        (left,) = store.summaries()

        assert left.name == "next"
        assert tt.check(store, left.run_id).ok


# Adds ten verdicts of its own to a run, and one that every process adds.
JUDGE = """
import sys
from tokentape.store import StoredVerdict, open_store

where, run_id, me = sys.argv[1:]
with open_store(where) as store:
    print("ready", flush=True)
    sys.stdin.readline()
    for number in range(11):
        store.add_verdict(StoredVerdict(
            run_id=run_id, at_us=number * 1000, replay="verify", verdict="verified",
            report={"by": me if number else "all", "turns": [{"tokens": number}] * 1000},
        ))
"""


def test_verdicts_are_kept_by_several_while_the_run_is_recorded_and_sealed(
    where: str, tmp_path: Path
) -> None:
    with live(where) as store:
        recorder = begin(tt.SealingLog(store, tmp_path / "sealed"))
        arguments = [where, recorder.run_id]
        judges = [
            subprocess.Popen(
                [sys.executable, "-c", JUDGE, *arguments, str(me)],
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for me in range(2)
        ]
        for judge in judges:
            assert judge.stdout is not None
            assert judge.stdout.readline() == "ready\n"
        for judge in judges:
            assert judge.stdin is not None
            judge.stdin.write("go\n")
            judge.stdin.flush()
        turn = 0
        while turn < 5 or any(judge.poll() is None for judge in judges):
            turn += 1
            say(recorder, turn, tokens=3)
        recorder.finish()
        for judge in judges:
            judge.communicate()
        tt.export_parquet(store.recording(recorder.run_id), store, tmp_path / "sealed")
        with tt.open_store(tmp_path / "sealed") as sealed:
            assert [judge.returncode for judge in judges] == [0] * 2
            assert len(store.verdicts(recorder.run_id)) == 21
            assert sealed.verdicts(recorder.run_id) == store.verdicts(recorder.run_id)
            assert tt.check(store, recorder.run_id).sealed_turns == turn
            assert tt.check(sealed, recorder.run_id) == tt.check(store, recorder.run_id)


UPGRADER = """
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from tests.store.later_schema import add_later_schema
from tokentape.store import open_store

with TemporaryDirectory() as folder:
    add_later_schema(Path(folder, "versions"))
    print("ready", flush=True)
    with open_store(sys.argv[1], upgrade=True) as store:
        print(sum(1 for run in store.summaries() for _ in store.recording(run.run_id).records()))
"""


def test_of_several_that_upgrade_a_store_one_makes_the_backup(tmp_path: Path) -> None:
    path = tmp_path / "runs.db"
    with live(str(path)) as store:
        run_id = make_run(store, turns=3, tokens=100)
        events = len(list(store.recording(run_id).records()))
    busy = sqlite3.connect(path, isolation_level=None)
    busy.execute("BEGIN IMMEDIATE")
    upgraders = []
    for _ in range(2):
        upgrader = subprocess.Popen(
            [sys.executable, "-c", UPGRADER, str(path)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        upgraders.append(upgrader)
        assert upgrader.stdout is not None
        assert upgrader.stdout.readline() == "ready\n"
        # Backups are named by the second.
        time.sleep(1)
    busy.execute("ROLLBACK")
    busy.close()

    assert [upgrader.communicate() for upgrader in upgraders] == [(f"{events}\n", "")] * 2
    (backup,) = tmp_path.glob("*.backup")
    with sqlite3.connect(backup) as copy:
        assert copy.execute("SELECT version_num FROM tokentape_version").fetchall() == [(head(),)]
        stream = "SELECT (SELECT count(*) FROM events) + (SELECT count(*) FROM tokens)"
        assert copy.execute(stream).fetchall() == [(events,)]
    copy.close()


OPENER = """
import sys
from tokentape.store import open_store

for _ in range(40):
    with open_store(sys.argv[1], must_exist=True) as store:
        store.summaries()
"""


def test_opening_and_closing_at_once_disturbs_nobody(tmp_path: Path) -> None:
    path = tmp_path / "runs.db"
    with live(str(path)) as store:
        record_script(store, "there")
    openers = [
        subprocess.Popen(
            [sys.executable, "-c", OPENER, str(path)], cwd=ROOT, stderr=subprocess.PIPE, text=True
        )
        for _ in range(3)
    ]

    assert [opener.communicate()[1] for opener in openers] == [""] * 3
