"""What is missing, refused, cut off or replaced in an object store is said in one line."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest

import tokentape as tt
from tests.store.made_runs import make_run
from tokentape.store import DatabaseStore, Integrity
from tokentape.store.errors import MissingLibraryError
from tokentape.store.objects import range_file

Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture
def packed(store: DatabaseStore, bucket: str) -> tuple[str, str]:
    """The URL of a tape, and the id of its run."""
    run_id = make_run(store, tokens=50)
    return str(tt.pack([store.recording(run_id)], store, f"{bucket}/x.tape")), run_id


def read_all(url: str, run_id: str) -> Integrity:
    with tt.open_store(url) as opened:
        tt.tokens_df(opened)
        return tt.check(opened, run_id)


def test_a_tape_that_is_cut_off_is_refused(packed: tuple[str, str], s3: Any) -> None:
    url, run_id = packed
    content = s3.cat_file(url)
    for length in (0, 1, 100, len(content) // 2, len(content) - 30, len(content) - 1):
        s3.pipe_file(url, content[:length])
        with pytest.raises(tt.StoreError, match="is not a complete tape"):
            read_all(url, run_id)


def test_a_part_that_is_cut_off_is_named(store: DatabaseStore, bucket: str, s3: Any) -> None:
    run_id = make_run(store)
    files = [str(each) for each in tt.export_parquet(store.recording(run_id), store, bucket)]
    for each in files:
        content = s3.cat_file(each)
        for length in (0, len(content) - 1):
            s3.pipe_file(each, content[:length])
            try:
                said = "; ".join(read_all(bucket, run_id).faults)
            except tt.StoreError as error:
                said = str(error)
            assert each in said
        s3.pipe_file(each, content)
    assert read_all(bucket, run_id).ok


@pytest.mark.parametrize("place", ["s3", "memory"])
def test_a_tape_that_is_replaced_while_it_is_read_is_not_mixed_with_the_new_one(
    place: str,
    packed: tuple[str, str],
    store: DatabaseStore,
    s3: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(range_file, "WHOLE_BYTES", 1000)
    monkeypatch.setattr(range_file, "_BLOCK_BYTES", 512)
    url, run_id = packed
    if place == "memory":
        url = str(tt.pack([store.recording(run_id)], store, "memory://replaced/x.tape"))
    other = make_run(store, tokens=60)
    with tt.open_store(url) as opened:
        tt.pack([store.recording(each) for each in (run_id, other)], store, url)
        with pytest.raises(tt.StoreError, match="another process replaced it meanwhile"):
            tt.tokens_df(opened)

    assert read_all(url, other).ok


def test_a_bucket_that_does_not_exist(store: DatabaseStore, s3: Any) -> None:
    recording = store.recording(make_run(store))
    for write in (
        lambda: tt.open_store("s3://no-such-bucket/runs"),
        lambda: tt.import_runs("s3://no-such-bucket/x.tape", store),
        lambda: tt.export_parquet(recording, store, "s3://no-such-bucket/runs"),
        lambda: tt.pack([recording], store, "s3://no-such-bucket/x.tape"),
        lambda: tt.export_jsonl([recording], store, "s3://no-such-bucket/x.jsonl"),
        lambda: tt.export_csv(store, recording.run_id, "s3://no-such-bucket/csv"),
    ):
        with pytest.raises(tt.StoreError, match=r"s3://no-such-bucket.*the bucket does not exist"):
            write()


def test_wrong_credentials_are_named(
    packed: tuple[str, str], store: DatabaseStore, endpoint: str, s3: Any
) -> None:
    url, run_id = packed
    # The server checks the key of each request from now on.
    reset(endpoint, 0)
    try:
        with pytest.raises(tt.StoreError, match=r"access is denied \(.*\): check the credentials"):
            tt.open_store(url)
        with pytest.raises(tt.StoreError, match=r"access is denied \(.*\): check the credentials"):
            tt.pack([store.recording(run_id)], store, url)
    finally:
        reset(endpoint, 2**62)


def reset(endpoint: str, requests: int) -> None:
    """Have moto admit that many requests with any key."""
    headers = {"Content-Type": "text/plain"}
    url = f"{endpoint}/moto-api/reset-auth"
    with urlopen(Request(url, str(requests).encode(), headers)):
        pass


def test_a_missing_library_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)
    # The classes that are imported already.
    monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, "s3", raising=False)

    with pytest.raises(MissingLibraryError, match=r"^s3://x/y needs s3fs: pip install 'tokentape"):
        tt.open_store("s3://x/y")
    with pytest.raises(MissingLibraryError, match="Please install gcsfs to access Google Storage"):
        tt.open_store("gs://x/y")


def test_a_database_is_not_opened_there(bucket: str, s3: Any, tmp_path: Path) -> None:
    with tt.open_store(tmp_path / "runs.db") as store:
        assert isinstance(store, DatabaseStore)
        make_run(store)
    s3.put_file(str(tmp_path / "runs.db"), f"{bucket}/runs.db")

    with pytest.raises(tt.StoreError, match="it is a SQLite database: download it first"):
        tt.open_store(f"{bucket}/runs.db")
    with pytest.raises(tt.StoreError, match=r"there is no store at .*Record into a database"):
        tt.open_store(f"{bucket}/none.db")


@pytest.mark.parametrize(
    "command",
    [
        ("run", "demo"),
        ("chat",),
        ("resume", "x"),
        ("fork", "x", "--at-turn", "1"),
        ("import", "x.tape"),
        ("db", "upgrade"),
    ],
    ids=" ".join,
)
def test_nothing_is_recorded_there(command: tuple[str, ...], cli: Cli) -> None:
    code, printed, said = cli(*command, "--store", "s3://bucket/runs")

    assert (code, printed) == (2, "")
    assert "s3://bucket/runs is no database: an object store has only copies of runs" in said
    assert len(said.strip().splitlines()) == 1


def test_other_files_are_not_written_there(cli: Cli, tmp_path: Path) -> None:
    code, _, said = cli("verify", "--html", "s3://bucket/report.html")

    assert code == 2
    assert "only copies of runs are written to object stores" in said


def test_no_command_of_files_imports_fsspec(tmp_path: Path) -> None:
    program = (
        "import sys; import tokentape as tt; tt.open_store('x.db').close();"
        "tt.open_store('sqlite:///x.db').close();"
        "from tokentape import cli; sys.argv = ['tokentape', 'list', '--store', 'x.db'];"
        "assert cli._run() == 0; assert 'fsspec' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=True)
