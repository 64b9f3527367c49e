"""A connection to PostgreSQL breaks at any moment: each event is stored once, the run goes on."""

import hashlib
import itertools
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text

import tokentape as tt
from tests.store.crash import Script, record_item, record_script, started
from tests.store.cutting_proxy import Cut, CuttingProxy, cutting_proxy
from tests.store.made_runs import begin, say
from tokentape.recorder import Record
from tokentape.recorder.events import CacheCleared
from tokentape.recorder.projections import RunSummary
from tokentape.store import DatabaseStore, StoredVerdict
from tokentape.store.live import postgres_store
from tokentape.store.live.server_wait import ServerWait, UnreachableServerWarning

Connected = tuple[DatabaseStore, CuttingProxy]


@pytest.fixture(scope="module")
def connected(make_postgres_url: Callable[[], str]) -> Iterator[Connected]:
    """Return a store by way of a proxy."""
    with cutting_proxy(make_postgres_url()) as (proxy, url), tt.open_store(url) as store:
        assert isinstance(store, DatabaseStore)
        yield store, proxy


class Acknowledged:
    """A log that keeps what a store has taken."""

    def __init__(self, store: DatabaseStore) -> None:
        self._store = store
        self.records: list[Record] = []
        self.blobs: list[str] = []

    def append(
        self, envelope: tt.Envelope, record: Record, *, durable: bool, summary: RunSummary | None
    ) -> None:
        self._store.append(envelope, record, durable=durable, summary=summary)
        self.records.append(record)

    def put_blob(self, sha256: str, payload: bytes) -> None:
        self._store.put_blob(sha256, payload)
        self.blobs.append(sha256)


def record_run(store: DatabaseStore, proxy: CuttingProxy, seed: int) -> bool:
    """Record a run with a tool and a verdict; all that was taken must be there, exactly once.

    Return whether a connection was cut meanwhile.
    """
    log = Acknowledged(store)
    with tt.Recorder(log) as recorder:
        for item in Script("cut", seed, tokens=2).turns(2):
            record_item(recorder, item)
    verdict = StoredVerdict(
        run_id=recorder.run_id, at_us=1, replay="verify", verdict="verified", report={"a": seed}
    )
    store.add_verdict(verdict)
    was_cut = not proxy.is_armed
    proxy.arm(None)

    assert list(store.recording(recorder.run_id).records()) == log.records
    assert [each.seq for each in log.records] == list(range(len(log.records)))
    for sha256 in log.blobs:
        assert hashlib.sha256(store.blob(sha256)).hexdigest() == sha256
    assert store.verdicts(recorder.run_id) == [verdict]
    found = tt.check(store, recorder.run_id)
    assert found.ok, found.faults
    summary = store.summary(recorder.run_id)
    assert summary is not None
    assert (summary.status, summary.turns) == ("finished", 2)
    return was_cut


def cut_at_each(connected: Connected, cut: Cut, requests: Iterator[int]) -> int:
    """Cut at one request after another, until a run has fewer; return the last that was cut."""
    store, proxy = connected
    last = 0
    for request in requests:
        proxy.arm(request, cut)
        if not record_run(store, proxy, request):
            break
        last = request
    return last


@pytest.mark.parametrize(("cut", "first"), [("before", 1), ("within", 2), ("after", 3)])
def test_cut_at_a_request_every_event_is_stored_once(
    connected: Connected, cut: Cut, first: int
) -> None:
    assert cut_at_each(connected, cut, itertools.count(first, 4)) > 40


@pytest.mark.slow
@pytest.mark.parametrize("cut", ["before", "within", "after"])
def test_cut_at_any_request_every_event_is_stored_once(connected: Connected, cut: Cut) -> None:
    assert cut_at_each(connected, cut, itertools.count(1)) > 40


def test_a_writer_waits_says_so_once_and_says_when_it_goes_on(connected: Connected) -> None:
    store, proxy = connected
    recorder = begin(store)
    proxy.arm(1, then_refuse=3)

    with pytest.warns(UnreachableServerWarning) as told:
        say(recorder, 1, tokens=3)
    recorder.finish()

    waiting, again = (str(each.message) for each in told)
    assert proxy.refused == 3
    assert waiting.startswith("PostgreSQL at postgresql+psycopg://postgres:***@127.0.0.1:")
    assert "is not reachable: waiting since 20" in waiting
    assert "for at most 600 seconds; " in waiting
    assert "\n" not in waiting
    assert "is reachable again after" in again
    assert "it was given 1 event that it did not have" in again
    assert tt.check(store, recorder.run_id).ok


def test_with_warnings_as_errors_a_writer_waits_too(connected: Connected) -> None:
    store, proxy = connected
    recorder = begin(store)
    proxy.arm(2, then_refuse=2)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        say(recorder, 1, tokens=3)
        recorder.finish()

    assert tt.check(store, recorder.run_id).ok


def test_a_wait_has_a_limit_and_the_end_of_the_run_waits_no_more(
    connected: Connected, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, proxy = connected
    monkeypatch.setattr(store, "_wait_s", 1)
    recorder = begin(store)
    proxy.arm(1, then_refuse=1000)

    with (
        pytest.warns(UnreachableServerWarning, match="at most 1 second;"),
        pytest.raises(tt.StoreError, match="it was not reachable within 1 s: "),
    ):
        say(recorder, 1, tokens=1)
    attempts = proxy.refused
    with pytest.raises(tt.StoreError, match="it was not reachable: "):
        recorder.fail(ValueError("gone"))
    assert proxy.refused <= attempts + 2

    proxy.arm(None)
    recorder.fail(ValueError("gone"))
    assert tt.check(store, recorder.run_id).ok
    assert store.recording(recorder.run_id).newest_turn() == 0


def test_an_interrupt_ends_the_wait_and_the_end_of_the_run_waits_no_more(
    connected: Connected, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, proxy = connected

    def interrupted(seconds: float) -> None:
        raise KeyboardInterrupt

    proxy.arm(None)

    def record() -> None:
        with tt.Recorder(store) as recorder:
            recorder.record(started("interrupted"))
            proxy.arm(1, then_refuse=1000)
            monkeypatch.setattr("tokentape.store.live.server_wait.time.sleep", interrupted)
            recorder.record(CacheCleared(reason="x", freed_bytes=1))

    with pytest.warns(UnreachableServerWarning), pytest.raises(KeyboardInterrupt) as raised:
        record()
    assert any("the end of run" in each for each in raised.value.__notes__)
    assert proxy.refused <= 3
    proxy.arm(None)


@pytest.mark.parametrize("given", ["soon", "-1", "1.5"])
def test_a_limit_that_is_no_number_is_refused(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch, given: str
) -> None:
    monkeypatch.setenv("TOKENTAPE_DATABASE_WAIT", given)

    with pytest.raises(tt.StoreError, match="must be a whole number of seconds"):
        tt.open_store(postgres_url)


def test_pauses_grow_and_end_at_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    pauses: list[float] = []

    def sleep(seconds: float) -> None:
        pauses.append(seconds)
        clock[0] += seconds

    monkeypatch.setattr("tokentape.store.live.server_wait.time.monotonic", lambda: clock[0])
    monkeypatch.setattr("tokentape.store.live.server_wait.time.sleep", sleep)
    attempts = sum(1 for _ in ServerWait("here", 60).attempts())

    assert attempts == len(pauses) + 1
    assert 0.05 <= pauses[0] <= 0.1
    assert max(pauses) <= 5
    assert sum(pauses) == pytest.approx(60)


def test_what_another_process_wrote_in_the_meantime_is_not_taken_for_ours(
    connected: Connected, make_postgres_url: Callable[[], str]
) -> None:
    store, proxy = connected
    proxy.arm(None)
    mine = begin(store)
    with tt.open_store(store.where.replace("***", "")) as other:
        assert isinstance(other, DatabaseStore)
        theirs = tt.Recorder.resume(other, other.recording(mine.run_id))
        theirs.close("taken over")
        proxy.arm(1)
        with pytest.raises(tt.StoreError, match="a run has one writer"):
            mine.record(CacheCleared(reason="mine", freed_bytes=1))

        assert [each.kind for each in other.recording(mine.run_id).records()][-1] == "RunFailed"
        assert record_script(store, "another")


def test_a_run_that_is_gone_does_not_stop_the_others(connected: Connected) -> None:
    store, proxy = connected
    proxy.arm(None)
    gone, left = begin(store), begin(store)
    gone.record(CacheCleared(reason="not synced", freed_bytes=1))
    store.erase(gone.run_id)
    proxy.arm(1)
    left.record(CacheCleared(reason="left", freed_bytes=1))
    left.finish()

    assert tt.check(store, left.run_id).ok


def test_a_server_that_lacks_what_was_durable_is_refused(postgres_url: str) -> None:
    with cutting_proxy(postgres_url) as (proxy, url), tt.open_store(url) as store:
        assert isinstance(store, DatabaseStore)
        recorder = begin(store)
        say(recorder, 1, tokens=1)
        engine = create_engine(postgres_url)
        with engine.begin() as connection:
            connection.execute(text("SET session_replication_role TO replica"))
            for table in ("events", "tokens", "runs"):
                connection.execute(text(f"DELETE FROM {table}"))
        engine.dispose()
        proxy.arm(1)

        with pytest.raises(tt.StoreError, match=r"lacks event .* it had confirmed as durable"):
            recorder.record(CacheCleared(reason="late", freed_bytes=1))


def test_no_more_than_a_bounded_number_of_events_waits_for_the_disk(connected: Connected) -> None:
    store, proxy = connected
    assert isinstance(store, postgres_store.PostgresStore)
    proxy.arm(None)
    recorder = begin(store)
    kept = []
    for _ in range(1100):
        recorder.record(CacheCleared(reason="again", freed_bytes=1))
        kept.append(len(store._unsynced))
    recorder.finish()

    assert max(kept) == 500
    assert kept.count(0) == 2


def test_an_import_connects_again_first(connected: Connected, tmp_path: Path) -> None:
    store, proxy = connected
    with tt.open_store(tmp_path / "runs.db") as other:
        assert isinstance(other, DatabaseStore)
        run_id = record_script(other, "imported")
        proxy.arm(1)
        store.put_blob("0" * 64, b"")
        store._writer.driver_connection.close()
        store.import_run(other.recording(run_id), other)

    assert tt.check(store, run_id).ok
