"""A copy can be taken home: lines of JSON, spreadsheets, and back into a store."""

import json
import re
import sqlite3
import struct
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tokentape as tt
from tests.store.made_runs import begin, make_run, say
from tests.tampering import without_triggers
from tokentape.recorder import Record
from tokentape.recorder.codec import dump_canonical
from tokentape.recorder.seals import SealCheck
from tokentape.store import DatabaseStore
from tokentape.store.copies.jsonl import JsonlFile
from tokentape.store.copies.spreadsheets import TABLES

Cli = Callable[..., tuple[int, str, str]]
FORMS = ("parquet", "tape", "jsonl")


@pytest.fixture
def recording(store: DatabaseStore) -> tt.Recording:
    return store.recording(make_run(store))


def copied(recording: tt.Recording, store: DatabaseStore, folder: Path, form: str) -> Path:
    path = folder / f"copy.{form}"
    if form == "parquet":
        tt.export_parquet(recording, store, path)
    elif form == "tape":
        tt.pack([recording], store, path)
    else:
        tt.export_jsonl([recording], store, path)
    return path


def lines_of(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def write_lines(path: Path, lines: list[dict[str, object]]) -> None:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


@pytest.mark.parametrize("form", FORMS)
def test_an_imported_run_is_the_run_that_was_recorded(
    form: str, recording: tt.Recording, store: DatabaseStore, tmp_path: Path
) -> None:
    path = copied(recording, store, tmp_path, form)
    with tt.open_store(tmp_path / "other.db") as other:
        (first,) = tt.import_runs(path, other)
        (again,) = tt.import_runs(path, other)

        assert (first.added, again.added) == (True, False)
        assert first.last_seal == list(recording.records())[-1].seal
        assert list(other.recording(first.run_id).records()) == list(recording.records())
        assert other.summaries() == store.summaries()
        assert tt.check(other, first.run_id).ok


@pytest.mark.parametrize("form", FORMS)
def test_a_copy_that_does_not_hold_is_refused_and_makes_no_store(
    form: str,
    recording: tt.Recording,
    store: DatabaseStore,
    tmp_path: Path,
    cli: Cli,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def records() -> list[Record]:
        found = list(recording.records())
        place = next(i for i, each in enumerate(found) if each.kind == "TokenSampled")
        body = found[place].body
        assert not isinstance(body, str)
        found[place] = replace(found[place], body={**body, "token_id": 99})
        return found

    forged = tt.Recording(recording.run_id, lambda: iter(records()))
    with monkeypatch.context() as unchecked:
        # A forger does not check the seals.
        unchecked.setattr(SealCheck, "add", lambda self, record: None)
        path = copied(forged, store, tmp_path, form)
    code, out, err = cli("import", str(path), "--store", str(tmp_path / "other.db"))

    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "is altered: the seal at event" in err
    assert not (tmp_path / "other.db").exists()


def test_every_line_is_a_record_that_others_can_read(
    recording: tt.Recording, store: DatabaseStore, tmp_path: Path
) -> None:
    path = copied(recording, store, tmp_path, "jsonl")
    lines = lines_of(path)
    records = [line for line in lines if "seq" in line]
    frame = pd.read_json(path, lines=True)

    assert [line["seq"] for line in records] == list(range(len(records)))
    at = [pd.Timestamp(line["at"]).value // 1000 for line in records]  # type: ignore[arg-type]
    assert at == [each.at_us for each in recording.records()]
    assert re.fullmatch(r"2027-01-15T\d\d:\d\d:\d\d\.\d{6}Z", str(records[0]["at"]))
    assert list(records[0]) == [
        *("run_id", "seq", "at", "kind", "version", "turn", "seal", "body"),
    ]
    assert isinstance(records[0]["body"], dict)
    assert len(lines) == len(records) + 1
    assert len(frame) == len(lines)
    assert [each.name for each in tmp_path.iterdir()] == ["copy.jsonl"]


def test_what_was_cut_off_is_exported_and_imported_too(
    tmp_path: Path,
    store: DatabaseStore,
) -> None:
    recorder = begin(store)
    recording = store.recording(recorder.run_id)
    say(recorder, 1, tokens=2)
    say(recorder, 2, tokens=2)
    unfinished = list(recording.records())[:-2]
    cut_off = tt.Recording(recording.run_id, lambda: iter(unfinished))
    path = copied(cut_off, store, tmp_path, "jsonl")
    with tt.open_store("sqlite://") as other:
        tt.import_runs(path, other)

        assert list(other.recording(recording.run_id).records()) == unfinished


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda each: st.lists(each, max_size=3) | st.dictionaries(st.text(), each, max_size=3),
    max_leaves=8,
)
FLOAT32 = st.floats(width=32, allow_nan=False, allow_infinity=False)


@given(
    body=st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), JSON, max_size=3),
    spaces=st.booleans(),
    logprob=FLOAT32,
    at_us=st.integers(-(2**50), 2**50),
)
def test_bodies_and_floats_come_back_to_the_bit(
    tmp_path_factory: pytest.TempPathFactory,
    body: dict[str, object],
    spaces: bool,
    logprob: float,
    at_us: int,
) -> None:
    try:
        text = dump_canonical(body) if not spaces else json.dumps(body, indent=1)
        text.encode()
    except UnicodeEncodeError:
        return
    token = {"logprob": logprob, "top_ids": (1, 2), "top_logprobs": (-0.5, -0.0)}
    given_records = [
        Record(0, at_us, "RunStarted", 1, text, None, None),
        Record(1, at_us, "TokenSampled", 1, token, 1, "a seal"),
    ]
    path = tmp_path_factory.mktemp("lines") / "run.jsonl"
    with tt.open_store("sqlite://") as store:
        tt.export_jsonl([tt.Recording("r", lambda: iter(given_records))], store, path)
    (copy,) = JsonlFile(path).recordings()
    records = list(copy.records())

    assert records == given_records
    found = records[1].body
    assert not isinstance(found, str)
    assert struct.pack("<d", found["logprob"]) == struct.pack("<d", logprob)


@pytest.mark.parametrize(
    "harm",
    [
        lambda line: "not json",
        lambda line: "[]",
        lambda line: '{"run_id": 3, "seq": 1}',
        lambda line: line[:-20],
        lambda line: line.replace('"at":"2027', '"at":"soon'),
        lambda line: line.replace('"version":1', '"version":null'),
        lambda line: "[" * 100_000,
    ],
)
def test_a_damaged_line_is_one_line_with_its_place(
    harm: Callable[[str], str],
    recording: tt.Recording,
    store: DatabaseStore,
    tmp_path: Path,
    cli: Cli,
) -> None:
    path = copied(recording, store, tmp_path, "jsonl")
    lines = path.read_text(encoding="utf-8").split("\n")
    lines[4] = harm(lines[4])
    path.write_text("\n".join(lines), encoding="utf-8")
    code, out, err = cli("import", str(path), "--store", str(tmp_path / "other.db"))

    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "line 5" in err or "the record at byte" in err
    assert not (tmp_path / "other.db").exists()


def test_a_missing_line_and_a_changed_payload_are_refused(
    recording: tt.Recording, store: DatabaseStore, tmp_path: Path
) -> None:
    path = copied(recording, store, tmp_path, "jsonl")
    lines = lines_of(path)
    with tt.open_store("sqlite://") as other:
        write_lines(path, [*lines[:5], *lines[6:]])
        with pytest.raises(tt.RecordingError, match="an event is missing"):
            tt.import_runs(path, other)
        payload = {"payload": "Zm9yZ2Vk"}
        write_lines(path, [line | payload if "payload" in line else line for line in lines])
        with pytest.raises(tt.StoreError, match="was altered after the export"):
            tt.import_runs(path, other)

        assert other.summaries() == []


@pytest.mark.parametrize("what", ["missing", "a database", "an empty folder"])
def test_what_is_no_copy_is_one_line(what: str, tmp_path: Path, cli: Cli) -> None:
    path = tmp_path / "copy"
    if what == "a database":
        sqlite3.connect(path).execute("CREATE TABLE t (a)").connection.close()
    elif what == "an empty folder":
        path.mkdir()
    code, out, err = cli("import", str(path), "--store", str(tmp_path / "other.db"))

    assert (code, out, err.count("\n")) == (2, "", 1)
    assert str(path) in err
    assert not (tmp_path / "other.db").exists()


def test_spreadsheets_say_what_the_frames_say(
    recording: tt.Recording, store: DatabaseStore, tmp_path: Path
) -> None:
    make_run(store, turns=1)
    files = tt.export_csv(store, recording.run_id, tmp_path / "csv")
    tables = {path.stem: pd.read_csv(path) for path in files}

    assert tuple(tables) == TABLES
    names = {each.name for each in (tmp_path / "csv").iterdir()}
    assert names == {"export.json", *(each.name for each in files)}
    assert (
        tables["tokens"]["token_id"].tolist()
        == tt.tokens_df(store, recording.run_id)["token_id"].tolist()
    )
    assert tables["turns"]["turn"].tolist() == [1, 2, 3]
    assert len(tables["events"]) == len(list(recording.records()))
    assert tables["runs"]["run_id"].tolist() == [recording.run_id]


@pytest.mark.parametrize("lost", [(), ("export.json",), ("export.json", "runs.csv")])
def test_spreadsheets_replace_those_of_the_same_run_only(
    lost: tuple[str, ...], tmp_path: Path, cli: Cli
) -> None:
    database, folder = tmp_path / "runs.db", tmp_path / "csv"
    with tt.open_store(database) as store:
        first, second = make_run(store, turns=1), make_run(store, turns=2)
    options = ("--to", "csv", "-o", str(folder), "--store", str(database))
    cli("export", first, *options)
    for name in lost:
        (folder / name).unlink()
    before = {each.name: each.read_bytes() for each in folder.iterdir()}
    code, out, err = cli("export", second, *options)

    assert (code, out, err.count("\n")) == (2, "", 1)
    assert f"{folder} holds " in err
    assert (f"the export of run {first}" in err) == (len(lost) < 2)
    assert {each.name: each.read_bytes() for each in folder.iterdir()} == before
    if len(lost) < 2:
        assert cli("export", first, *options)[0] == 0
        assert json.loads((folder / "export.json").read_text())["run_id"] == first


@pytest.mark.parametrize("content", ["", "[]", '{"run_id": 7}', "\0", "null"])
def test_spreadsheets_replace_no_other_export_json(
    content: str, recording: tt.Recording, store: DatabaseStore, tmp_path: Path
) -> None:
    (tmp_path / "export.json").write_text(content)
    with pytest.raises(tt.StoreError, match=r"holds export\.json of another export"):
        tt.export_csv(store, recording.run_id, tmp_path)

    assert (tmp_path / "export.json").read_text() == content


@pytest.mark.parametrize("form", ["parquet", "jsonl", "csv"])
def test_export_prints_its_files_and_import_what_it_added(
    form: str, tmp_path: Path, cli: Cli
) -> None:
    database, path = tmp_path / "runs.db", tmp_path / "out"
    with tt.open_store(database) as store:
        run_id = make_run(store, turns=2)
    where = ("--store", str(database))
    code, out, err = cli("export", run_id[:9], "--to", form, "--output", str(path), *where)

    assert (code, err) == (0, "")
    assert all(Path(line).is_file() for line in out.splitlines())
    told = json.loads(cli("export", "--to", form, "-o", str(path), *where, "--json")[1])
    assert told == (out.splitlines() if form != "parquet" else [])  # it is there already
    if form == "csv":
        return
    other = ("--store", str(tmp_path / "other.db"))
    assert cli("import", str(path), *other)[1] == f"{run_id}  added, 18 events\n"
    (again,) = json.loads(cli("import", str(path), *other, "--json")[1])
    assert (again["run_id"], again["events"], again["added"]) == (run_id, 18, False)


@pytest.mark.parametrize("what", ["the store", "a tape", "notes", "other lines"])
def test_lines_overwrite_nothing_but_lines_of_runs(what: str, tmp_path: Path, cli: Cli) -> None:
    database, path = tmp_path / "runs.db", tmp_path / "there"
    with tt.open_store(database) as store:
        run_id = make_run(store, turns=1)
        if what == "a tape":
            tt.pack([store.recording(run_id)], store, path)
    if what == "the store":
        path = database
    elif what != "a tape":
        path.write_text("mine" if what == "notes" else '{"mine": 1}\n')
    before = path.read_bytes()
    code, out, err = cli("export", "--to", "jsonl", "-o", str(path), "--store", str(database))

    assert (code, out, err.count("\n")) == (2, "", 1)
    assert f"{path} exists and is not an export of runs" in err
    assert path.read_bytes() == before


def test_lines_replace_lines_and_an_empty_file(
    recording: tt.Recording, store: DatabaseStore, tmp_path: Path
) -> None:
    path = tmp_path / "run.jsonl"
    path.touch()
    for _ in range(2):
        tt.export_jsonl([recording], store, path)

        assert len(JsonlFile(path).recordings()) == 1


def test_an_export_says_what_it_leaves_out(tmp_path: Path, cli: Cli) -> None:
    database = tmp_path / "runs.db"
    with tt.open_store(database) as store:
        recorder = begin(store)
        say(recorder, 1, tokens=2)
        say(recorder, 2, tokens=2, payload=b"seen")
        recorder.put_blob("0" * 64, b"")
    with closing(sqlite3.connect(database)) as connection, without_triggers(connection):
        connection.execute(
            "DELETE FROM events WHERE event_key = (SELECT max(event_key) FROM events)"
        )
    code, _, err = cli("export", "-o", str(tmp_path / "sealed"), "--store", str(database))

    assert code == 0
    assert "left out 6 events of a turn that has not finished" in err


def test_nothing_is_imported_into_what_is_sealed(
    recording: tt.Recording, store: DatabaseStore, tmp_path: Path, cli: Cli
) -> None:
    path = copied(recording, store, tmp_path, "tape")
    before = path.read_bytes()
    code, _, err = cli("import", str(path), "--store", str(path))

    assert (code, err.count("\n")) == (2, 1)
    assert "can only be read" in err
    assert path.read_bytes() == before
