"""A tape is one file that holds whole runs, and says where it does not."""

import json
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import duckdb
import pandas as pd
import polars as pl
import pytest

import tokentape as tt
from tests.store.duckdb_versions import duckdb_of_tokens
from tests.store.made_runs import begin, make_run, say
from tokentape.store import DatabaseStore
from tokentape.store.source import Selection

Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture
def packed(tmp_path: Path, store: DatabaseStore) -> tuple[Path, list[tt.Recording]]:
    recordings = [store.recording(make_run(store, turns=turns)) for turns in (2, 1)]
    return tt.pack(recordings, store, tmp_path / "two.tape"), recordings


def rewritten(path: Path, change: Callable[[dict[str, bytes]], object]) -> Path:
    """The tape with other members."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    change(members)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def members_of(path: Path, table: str) -> list[str]:
    with zipfile.ZipFile(path) as archive:
        return [name for name in archive.namelist() if name.startswith(f"{table}/")]


def test_runs_come_back_as_they_were_packed(packed: tuple[Path, list[tt.Recording]]) -> None:
    path, recordings = packed
    with tt.open_store(path) as tape:
        assert [each.run_id for each in tape.summaries()] == [each.run_id for each in recordings]
        for recording in recordings:
            assert list(tape.recording(recording.run_id).records()) == list(recording.records())
        assert [tape.verify_files(each.run_id) for each in recordings] == [[], []]
        assert tape.tokens_table(Selection(turns=(2,))).num_rows == 4


def test_packing_twice_gives_the_same_bytes(
    packed: tuple[Path, list[tt.Recording]], store: DatabaseStore, tmp_path: Path
) -> None:
    path, recordings = packed
    again = tt.pack(reversed(recordings), store, tmp_path / "again.tape")

    assert again.read_bytes() == path.read_bytes()
    assert {each.name for each in tmp_path.iterdir()} == {"two.tape", "again.tape"}


def test_the_manifest_says_what_is_inside(packed: tuple[Path, list[tt.Recording]]) -> None:
    path, recordings = packed
    with zipfile.ZipFile(path) as archive:
        manifest = json.loads(archive.read("manifest.json"))
        stored = {each.compress_type for each in archive.infolist()}
        assert archive.namelist()[0] == "manifest.json"
        assert set(archive.namelist()[1:]) == set(manifest["files"])

    assert manifest["format"] == 1
    assert manifest["tokentape"] == tt.__version__
    assert [each["last_seal"] for each in manifest["runs"]] == [
        list(recording.records())[-1].seal for recording in recordings
    ]
    assert stored == {zipfile.ZIP_STORED}


@pytest.mark.parametrize("reader", ["pandas", "polars"])
def test_others_read_its_members_alone(
    packed: tuple[Path, list[tt.Recording]], reader: str
) -> None:
    path, recordings = packed
    name = members_of(path, "tokens")[0]
    with zipfile.ZipFile(path) as archive, archive.open(name) as file:
        frame = pd.read_parquet(file) if reader == "pandas" else pl.read_parquet(file)

    assert list(frame["token_id"]) == token_ids_of(recordings[0])


@duckdb_of_tokens
def test_unpacked_it_is_a_folder_for_duckdb_and_for_us(
    packed: tuple[Path, list[tt.Recording]], tmp_path: Path
) -> None:
    path, recordings = packed
    with zipfile.ZipFile(path) as archive:
        archive.extractall(tmp_path / "unpacked")
    query = f"FROM '{tmp_path}/unpacked/tokens/**/*.parquet' SELECT token_id ORDER BY run_id, seq"

    assert [token_id for (token_id,) in duckdb.sql(query).fetchall()] == [
        *token_ids_of(recordings[0]),
        *token_ids_of(recordings[1]),
    ]
    with tt.open_store(tmp_path / "unpacked") as folder:
        assert [each.run_id for each in folder.summaries()] == [each.run_id for each in recordings]


def token_ids_of(recording: tt.Recording) -> list[int]:
    return [token.token_id for turn in recording.turns() for token in turn.tokens]


def test_a_run_that_goes_on_is_packed_up_to_its_last_seal(
    tmp_path: Path,
    store: DatabaseStore,
) -> None:
    recorder = begin(store)
    recording = store.recording(recorder.run_id)
    say(recorder, 1, tokens=2)
    sealed = list(recording.records())
    say(recorder, 2, tokens=2)
    unfinished = list(recording.records())[:-1]
    cut_off = tt.Recording(recording.run_id, lambda: iter(unfinished))
    tt.pack([cut_off], store, tmp_path / "one.tape")

    with tt.open_store(tmp_path / "one.tape") as tape:
        assert list(tape.recording(recorder.run_id).records()) == sealed
        assert tape.summaries()[0].status == "running"


def test_every_byte_that_is_changed_is_found_or_changes_nothing(
    packed: tuple[Path, list[tt.Recording]], tmp_path: Path
) -> None:
    path, recordings = packed
    whole = path.read_bytes()
    recorded = [list(each.records()) for each in recordings]
    found = 0
    for place in range(0, len(whole), max(1, len(whole) // 150)):
        harmed = tmp_path / "harmed.tape"
        harmed.write_bytes(whole[:place] + bytes([whole[place] ^ 0x10]) + whole[place + 1 :])
        faults = faults_of(harmed)
        if faults:
            found += 1
            assert all(str(harmed) in fault and "\n" not in fault for fault in faults)
        else:
            with tt.open_store(harmed) as tape:
                copies = [tape.recording(each.run_id).records() for each in recordings]
                assert [list(copy) for copy in copies] == recorded
    assert found > 100


def faults_of(path: Path) -> list[str]:
    try:
        with tt.open_store(path) as tape:
            return [fault for each in tape.summaries() for fault in tape.verify_files(each.run_id)]
    except tt.StoreError as error:
        return [str(error)]


@pytest.mark.parametrize("table", ["runs", "events", "tokens", "blobs"])
def test_a_flipped_byte_in_any_file_is_named(
    packed: tuple[Path, list[tt.Recording]], table: str
) -> None:
    path, recordings = packed
    name = members_of(path, table)[0]
    with zipfile.ZipFile(path) as archive:
        content = archive.read(name)
    whole = bytearray(path.read_bytes())
    whole[whole.index(content) + len(content) // 2] ^= 1
    path.write_bytes(whole)
    with tt.open_store(path) as tape:
        faults = tape.verify_files(recordings[0].run_id)

        assert tape.verify_files(recordings[1].run_id) == []
    assert faults
    assert all(name in fault for fault in faults)


def test_a_file_that_was_exchanged_is_found_by_its_sum(
    packed: tuple[Path, list[tt.Recording]],
) -> None:
    path, recordings = packed
    first = members_of(path, "runs")[0]

    def exchange(members: dict[str, bytes]) -> None:
        changed = bytearray(members[first])
        changed[8] ^= 1
        members[first] = bytes(changed)

    with tt.open_store(rewritten(path, exchange)) as tape:
        faults = tape.verify_files(recordings[0].run_id)

        assert tape.verify_files(recordings[1].run_id) == []
    assert any(f"{first} differs from the manifest" in fault for fault in faults)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("fingerprints", {"weights_sha256": "another"}),
        ("last_seal", "blake2b-256:00"),
        ("events", 7),
        ("run_id", "another"),
    ],
)
def test_a_manifest_that_says_what_is_not_so_is_found(
    packed: tuple[Path, list[tt.Recording]], name: str, told: object
) -> None:
    path, recordings = packed

    def change(members: dict[str, bytes]) -> None:
        manifest = json.loads(members["manifest.json"])
        manifest["runs"][0][name] = told
        members["manifest.json"] = json.dumps(manifest).encode()

    with tt.open_store(rewritten(path, change)) as tape:
        (fault,) = tape.verify_files(recordings[0].run_id)

        assert len(tape.verify_files(recordings[1].run_id)) == (name == "run_id")
    assert "manifest.json" in fault


@pytest.mark.parametrize("length", [0, 3, 100, 0.5, 0.99])
def test_a_truncated_tape_is_one_line(
    packed: tuple[Path, list[tt.Recording]], length: float, cli: Cli
) -> None:
    path, _ = packed
    whole = path.read_bytes()
    path.write_bytes(whole[: int(length if length >= 3 else length * len(whole))])
    code, out, err = cli("list", "--store", str(path))

    assert (code, out, err.count("\n")) == (2, "", 1)
    assert str(path) in err


@pytest.mark.parametrize(
    "name",
    ["../../etc/evil", "/etc/evil", "runs/../../evil", "runs\\evil", "C:/evil", "readme\nevil"],
)
def test_a_member_that_no_tape_has_is_refused(
    packed: tuple[Path, list[tt.Recording]], name: str, tmp_path: Path
) -> None:
    path = rewritten(packed[0], lambda members: members.update({name: b"evil"}))
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(tt.StoreError, match="is not a tape: it has") as caught:
        tt.open_store(path)

    assert "\n" not in str(caught.value)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("table", ["tokens", "manifest.json"])
def test_a_member_that_is_there_twice_is_refused(
    packed: tuple[Path, list[tt.Recording]], table: str
) -> None:
    path, _ = packed
    name = table if table.endswith("json") else members_of(path, table)[0]
    with zipfile.ZipFile(path) as archive:
        content = archive.read(name)
    with warnings.catch_warnings(), zipfile.ZipFile(path, "a") as archive:
        warnings.simplefilter("ignore")
        archive.writestr(name, content)
    with pytest.raises(tt.StoreError, match="twice"):
        tt.open_store(path)


def test_a_missing_and_a_foreign_file_are_named(packed: tuple[Path, list[tt.Recording]]) -> None:
    path, _ = packed
    name = members_of(path, "tokens")[0]
    rewritten(path, lambda members: members.pop(name))
    with pytest.raises(tt.StoreError, match=f"{name} has no bytes"):
        tt.open_store(path)


@pytest.mark.parametrize(
    ("manifest", "complaint"),
    [
        (b"", "manifest.json is damaged"),
        (b"[]", "manifest.json is damaged"),
        (b'{"format": 1}', "manifest.json is damaged"),
        (b'{"format": "one", "files": []}', "manifest.json is damaged"),
        (b'{"format": 1, "files": {"a": 1}}', "manifest.json is damaged"),
        (b"\xff\xfe", "manifest.json is damaged"),
        (None, "it has no manifest.json"),
    ],
)
def test_a_bad_manifest_is_one_line(
    packed: tuple[Path, list[tt.Recording]], manifest: bytes | None, complaint: str
) -> None:
    def change(members: dict[str, bytes]) -> None:
        del members["manifest.json"]
        if manifest is not None:
            members["manifest.json"] = manifest

    with pytest.raises(tt.StoreError, match=complaint):
        tt.open_store(rewritten(packed[0], change))


def test_a_newer_tape_exits_with_three(packed: tuple[Path, list[tt.Recording]], cli: Cli) -> None:
    path = rewritten(
        packed[0], lambda members: members.update({"manifest.json": b'{"format": 2}', "new": b""})
    )
    code, out, err = cli("list", "--store", str(path))

    assert (code, out) == (3, "")
    assert "format 2: upgrade tokentape" in err


def test_a_tape_that_is_not_there_is_not_made(tmp_path: Path, cli: Cli) -> None:
    code, _, err = cli("list", "--store", str(tmp_path / "none.tape"))

    assert (code, err.count("\n")) == (2, 1)
    assert "none.tape" in err
    assert list(tmp_path.iterdir()) == []


def test_packing_that_breaks_leaves_the_old_tape(
    packed: tuple[Path, list[tt.Recording]], store: DatabaseStore, tmp_path: Path
) -> None:
    path, recordings = packed
    before = path.read_bytes()
    damaged = tt.Recording(recordings[0].run_id, lambda: iter(list(recordings[0].records())[1:]))
    with pytest.raises(tt.RecordingError):
        tt.pack([recordings[1], damaged], store, path)
    with pytest.raises(tt.StoreError, match="at least one run"):
        tt.pack([], store, path)

    assert path.read_bytes() == before
    assert [each.name for each in tmp_path.iterdir()] == ["two.tape"]


def test_packing_refuses_to_overwrite_what_is_no_tape(tmp_path: Path, cli: Cli) -> None:
    database = tmp_path / "runs.db"
    with tt.open_store(database) as store:
        run_id = make_run(store, turns=1)
    notes, gone = tmp_path / "notes.txt", tmp_path / "gone.tape"
    notes.write_text("mine")
    gone.write_bytes(b"PK\x03\x04, and the rest is missing")
    for path in (database, notes, gone):
        before = path.read_bytes()
        code, out, err = cli("pack", run_id, "-o", str(path), "--store", str(database))

        assert (code, out, err.count("\n")) == (2, "", 1)
        assert f"{path} exists and is not a readable tape" in err
        assert path.read_bytes() == before


def test_packing_refuses_to_drop_a_run_that_is_in_the_tape(
    packed: tuple[Path, list[tt.Recording]], store: DatabaseStore
) -> None:
    path, recordings = packed
    before = path.read_bytes()
    with tt.open_store(path) as tape:
        with pytest.raises(tt.StoreError, match=f"{recordings[1].run_id} would be lost") as caught:
            tt.pack([tape.recording(recordings[0].run_id)], tape, path)
        assert "\n" not in str(caught.value)
        assert path.read_bytes() == before
        tt.pack([tape.recording(each.run_id) for each in recordings], tape, path)
    assert path.read_bytes() == before
    more = [*recordings, store.recording(make_run(store, turns=1))]
    tt.pack(more, store, path)
    with tt.open_store(path) as tape:
        assert len(tape.summaries()) == 3


def test_pack_prints_the_tape_that_commands_then_read(tmp_path: Path, cli: Cli) -> None:
    database, path = tmp_path / "runs.db", tmp_path / "a b.tape"
    with tt.open_store(database) as store:
        run_ids = [make_run(store, turns=1), make_run(store, turns=2)]
    code, out, err = cli("pack", *run_ids, "-o", str(path), "--store", str(database))

    assert (code, out) == (0, f"{path}\n")
    assert [line.partition(": last seal ")[0] for line in err.splitlines()] == [
        f"run {run_id}" for run_id in run_ids
    ]
    told = json.loads(cli("pack", *run_ids, "-o", str(path), "--store", str(database), "--json")[1])
    assert list(told.pop("last_seals")) == run_ids
    assert told == {"tape": str(path), "bytes": path.stat().st_size, "runs": sorted(run_ids)}
    assert cli("rebuild", run_ids[1], "--store", str(path))[0] == 0
    assert cli("check", run_ids[0], "--store", str(path))[0] == 0
