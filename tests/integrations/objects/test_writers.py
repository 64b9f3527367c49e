"""Writers that are killed, or several at once: a reader never takes a part for a run or a tape."""

import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import tokentape as tt
from tests.store.made_runs import begin, make_run, say
from tokentape.store import DatabaseStore
from tokentape.store.objects.object_path import ObjectPath

ROOT = Path(__file__).resolve().parents[3]
PROGRAM = """
import os, signal, sys
import tokentape as tt
from tokentape.store.objects.object_path import ObjectPath

path, url, killed_at = sys.argv[1], sys.argv[2], int(sys.argv[3])
sent = 0

def dying(method):
    def send(self, *given):
        global sent
        if sent == killed_at:
            os.kill(os.getpid(), signal.SIGKILL)
        sent += 1
        return method(self, *given)
    return send

ObjectPath.upload = dying(ObjectPath.upload)
ObjectPath.upload_in_place_of = dying(ObjectPath.upload_in_place_of)
with tt.open_store(path) as store:
    recording = store.recording("@last")
    if url.endswith(".tape"):
        tt.pack([recording], store, url)
    else:
        tt.export_parquet(recording, store, url)
"""


def killed_export(path: Path, url: str, killed_at: int) -> int:
    command = [sys.executable, "-c", PROGRAM, str(path), url, str(killed_at)]
    return subprocess.run(command, cwd=ROOT, check=False).returncode


def test_a_killed_export_leaves_no_run_and_no_tape(bucket: str, s3: Any, tmp_path: Path) -> None:
    path = tmp_path / "runs.db"
    with tt.open_store(path) as opened:
        assert isinstance(opened, DatabaseStore)
        run_id = make_run(opened)

    # Killed before the object of `runs`, which is the last of four.
    assert killed_export(path, f"{bucket}/runs", 3) == -signal.SIGKILL
    assert killed_export(path, f"{bucket}/x.tape", 0) == -signal.SIGKILL
    there = [each.partition("/runs/")[2].partition("/")[0] for each in s3.find(bucket)]
    assert there == ["blobs", "events", "tokens"]
    for name in ("runs", "x.tape"):
        with pytest.raises(tt.StoreError, match=r"holds no sealed runs|there is no store"):
            tt.open_store(f"{bucket}/{name}")

    with tt.open_store(path) as opened:
        tt.export_parquet(opened.recording(run_id), opened, f"{bucket}/runs")
    with tt.open_store(f"{bucket}/runs") as opened:
        assert tt.check(opened, run_id).ok


class Interrupted(BaseException):
    """The end of a process, as far as its writes are concerned."""


@pytest.fixture
def at_upload(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, Callable[[], Any]], None]:
    """Return a function that has something happen once, before the n-th object is sent."""
    sent: list[str] = []

    def arrange(number: int, happen: Callable[[], Any]) -> None:
        sent.clear()
        for name in ("upload", "upload_in_place_of"):
            monkeypatch.setattr(ObjectPath, name, hooked(ORIGINAL[name], number, happen))

    def hooked(method: Any, number: int, happen: Callable[[], Any]) -> Any:
        def send(self: ObjectPath, *given: Any) -> Any:
            sent.append(self.key)
            if len(sent) == number:
                happen()
            return method(self, *given)

        return send

    return arrange


ORIGINAL = {name: getattr(ObjectPath, name) for name in ("upload", "upload_in_place_of")}


def end() -> None:
    raise Interrupted


@pytest.mark.parametrize("sent", [1, 2, 3, 4])
def test_wherever_an_export_ends_the_run_is_there_up_to_its_last_seal(
    store: DatabaseStore,
    sent: int,
    at_upload: Callable[[int, Callable[[], Any]], None],
) -> None:
    url = f"memory://ended-{sent}/runs"
    recorder = begin(store)
    say(recorder, 1, tokens=4)
    recording = store.recording(recorder.run_id)
    tt.export_parquet(recording, store, url)
    say(recorder, 2, tokens=4, payload=b"seen")
    at_upload(sent, end)

    with pytest.raises(Interrupted):
        tt.export_parquet(recording, store, url)
    with tt.open_store(url) as opened:
        found = tt.check(opened, recorder.run_id)
        assert (found.ok, found.sealed_turns) == (True, 1)
        assert len(tt.tokens_df(opened)) == 4

    at_upload(-1, end)
    tt.export_parquet(recording, store, url)
    with tt.open_store(url) as opened:
        assert tt.check(opened, recorder.run_id).sealed_turns == 2


@pytest.mark.parametrize("sent", [1, 2, 3])
@pytest.mark.parametrize("kind", ["same", "longer", "older"])
def test_two_exports_of_a_run_end_with_a_whole_one(
    store: DatabaseStore,
    request: pytest.FixtureRequest,
    tmp_path: Path,
    sent: int,
    kind: str,
    at_upload: Callable[[int, Callable[[], Any]], None],
) -> None:
    # The third object commits the run, for which S3 compares and writes in one step.
    bucket = request.getfixturevalue("bucket") if sent == 3 else f"memory://{kind}-{sent}"
    url = f"{bucket}/runs"
    recorder = begin(store)
    say(recorder, 1, tokens=4)
    older = tt.open_store("sqlite://")
    assert isinstance(older, DatabaseStore)
    tt.import_runs(tt.pack([store.recording(recorder.run_id)], store, tmp_path / "x.tape"), older)
    if kind == "older":
        say(recorder, 2, tokens=4)

    def other() -> None:
        at_upload(-1, end)
        source = store if kind != "older" else older
        if kind == "longer":
            say(recorder, 2, tokens=9)
        tt.export_parquet(source.recording(recorder.run_id), source, url)

    at_upload(sent, other)
    tt.export_parquet(store.recording(recorder.run_id), store, url)

    with tt.open_store(url) as opened:
        found = tt.check(opened, recorder.run_id)
        assert (found.ok, found.sealed_turns) == (True, 1 if kind == "same" else 2)
    older.close()


def test_parts_that_a_killed_export_replaced_are_sent_again(
    store: DatabaseStore, at_upload: Callable[[int, Callable[[], Any]], None]
) -> None:
    url = "memory://replaced-parts/runs"
    recorder = begin(store)
    say(recorder, 1, tokens=4)
    recording = store.recording(recorder.run_id)

    def other() -> None:
        say(recorder, 2, tokens=9)
        at_upload(2, end)
        with pytest.raises(Interrupted):
            tt.export_parquet(recording, store, url)
        at_upload(-1, end)

    # Between the events and the tokens of the first.
    at_upload(2, other)
    tt.export_parquet(recording, store, url)

    with tt.open_store(url) as opened:
        found = tt.check(opened, recorder.run_id)
        assert (found.ok, found.sealed_turns) == (True, 2)


@pytest.mark.parametrize("place", ["memory", "s3", "s3, between comparing and writing"])
@pytest.mark.parametrize("is_first", [True, False])
def test_two_packs_lose_no_run(
    store: DatabaseStore,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    at_upload: Callable[[int, Callable[[], Any]], None],
    place: str,
    is_first: bool,
) -> None:
    one, both = make_run(store), make_run(store)
    bucket = f"memory://{one}" if place == "memory" else request.getfixturevalue("bucket")
    tape = f"{bucket}/x.tape"
    if not is_first:
        tt.pack([store.recording(one)], store, tape)
    put = ObjectPath._put_if

    def other() -> None:
        at_upload(-1, end)
        monkeypatch.setattr(ObjectPath, "_put_if", put)
        tt.pack([store.recording(one), store.recording(both)], store, tape)

    def late(self: ObjectPath, *given: Any) -> None:
        other()
        put(self, *given)

    if "between" in place:
        monkeypatch.setattr(ObjectPath, "_put_if", late)
    else:
        at_upload(1, other)
    with pytest.raises(tt.StoreError, match="would be lost"):
        tt.pack([store.recording(one)], store, tape)

    with tt.open_store(tape) as opened:
        assert len(opened.summaries()) == 2


def test_threads_that_export_a_growing_run_and_read_it_see_whole_turns(
    tmp_path: Path, bucket: str, s3: Any
) -> None:
    url, seen, faults = f"{bucket}/runs", set[int](), list[BaseException]()
    path = tmp_path / "runs.db"
    store = tt.open_store(path)
    assert isinstance(store, DatabaseStore)
    recorder = begin(store)
    say(recorder, 1, tokens=4)
    tt.export_parquet(store.recording(recorder.run_id), store, url)
    ended = threading.Event()

    def export() -> None:
        try:
            with tt.open_store(path) as mine:
                for _ in range(4):
                    tt.export_parquet(mine.recording(recorder.run_id), mine, url)
        except tt.StoreError as error:
            # It gave up, and said so.
            if "try again" not in str(error):
                faults.append(error)

    def read() -> None:
        while not ended.is_set():
            with tt.open_store(url) as opened:
                try:
                    rows = tt.tokens_df(opened)
                except tt.StoreError as error:
                    # Between the parts of two writers; never silently.
                    if "were sealed" not in str(error) and "does not exist" not in str(error):
                        faults.append(error)
                else:
                    seen.add(len(rows))

    threads = [threading.Thread(target=export) for _ in range(2)]
    reader = threading.Thread(target=read)
    for each in (*threads, reader):
        each.start()
    for turn in range(2, 5):
        say(recorder, turn, tokens=4)
    for each in threads:
        each.join()
    ended.set()
    reader.join()
    tt.export_parquet(store.recording(recorder.run_id), store, url)
    store.close()

    assert faults == []
    assert seen <= {4, 8, 12, 16}
    with tt.open_store(url) as opened:
        assert tt.check(opened, recorder.run_id).sealed_turns == 4
