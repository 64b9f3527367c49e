"""Copies of a run include its attachments, once each."""

import json
import zipfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tokentape as tt
from tests.store.made_runs import begin, floor_of, make_run, say, verdict_of
from tokentape.recorder.codec import dump_canonical
from tokentape.store import DatabaseStore, StoredFloor, StoredVerdict
from tokentape.store.sealed.sealing import TableFile

Cli = Callable[..., tuple[int, str, str]]
TAPE = Path(__file__).parents[1] / "recordings" / "0.1.0.tape"


def files_in(folder: Path, table: str) -> list[str]:
    return sorted(each.name for each in folder.glob(f"{table}/*/*/*"))


TEXT = st.text(st.characters(exclude_categories=["Cs"]))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXT,
    lambda each: st.lists(each, max_size=4) | st.dictionaries(TEXT, each, max_size=4),
    max_leaves=12,
)
KNOWN = st.sampled_from(["turns", "floor", "reason", "model", "duration_us"])
REPORT = st.dictionaries(KNOWN | TEXT, JSON, max_size=5)


def said(kept: list[StoredVerdict]) -> list[str]:
    return [dump_canonical(asdict(each)) for each in kept]


@settings(max_examples=15)
@given(reports=st.lists(REPORT, max_size=3), floor=REPORT, at_us=st.integers(0, 2**62 // 1000))
def test_any_body_comes_back_from_every_copy(
    tmp_path_factory: pytest.TempPathFactory,
    reports: list[dict[str, Any]],
    floor: dict[str, Any],
    at_us: int,
) -> None:
    folder = tmp_path_factory.mktemp("kept")
    with tt.open_store("sqlite://") as live, tt.open_store("sqlite://") as other:
        run_id = make_run(live, turns=1, tokens=1)
        given_verdicts = [
            verdict_of(run_id, at_us + number, report=report)
            for number, report in enumerate(reports)
        ]
        given_floor = StoredFloor(run_id=run_id, at_us=at_us, version="é 1", floor=floor)
        for verdict in given_verdicts:
            live.add_verdict(verdict)
        live.add_floor(given_floor)
        recordings = [live.recording(run_id)]
        tape = tt.open_store(tt.pack(recordings, live, folder / "run.tape"))
        tt.import_runs(tt.export_jsonl(recordings, live, folder / "run.jsonl"), other)
        for store in (live, tape, other):
            # Canonical JSON tells minus zero from zero, and 1.0 from 1.
            assert said(store.verdicts(run_id)) == said(given_verdicts)
            assert store.floors(run_id) == [given_floor]
            pd.testing.assert_frame_equal(tt.verdicts_df(store), tt.verdicts_df(live))
        tape.close()


def test_what_was_kept_since_is_added_to_sealed_files(tmp_path: Path, store: DatabaseStore) -> None:
    recorder = begin(store)
    run_id = recorder.run_id
    say(recorder, 1, tokens=2)
    store.add_verdict(verdict_of(run_id, 3000))
    tt.export_parquet(store.recording(run_id), store, tmp_path)
    assert tt.export_parquet(store.recording(run_id), store, tmp_path) == []
    # Also one that is older than the sealed ones.
    store.add_verdict(verdict_of(run_id, 1000))
    store.add_floor(floor_of(run_id))
    added = tt.export_parquet(store.recording(run_id), store, tmp_path)
    say(recorder, 2, tokens=2)
    store.add_verdict(verdict_of(run_id, 2000))
    recorder.finish()
    tt.export_parquet(store.recording(run_id), store, tmp_path)

    names = [each.relative_to(tmp_path).parts[0] for each in added]
    assert names == ["verdicts", "floors", "runs"]
    assert files_in(tmp_path, "verdicts") == [f"part-{number:05}.parquet" for number in range(3)]
    assert files_in(tmp_path, "tokens") == ["part-00000.parquet", "part-00001.parquet"]
    with tt.open_store(tmp_path) as sealed:
        assert sealed.verdicts(run_id) == store.verdicts(run_id)
        assert [each.at_us for each in sealed.verdicts(run_id)] == [1000, 2000, 3000]
        assert sealed.floors(run_id) == [floor_of(run_id)]
        pd.testing.assert_frame_equal(tt.verdicts_df(sealed), tt.verdicts_df(store))
        assert tt.check(sealed, run_id) == tt.check(store, run_id)


def test_a_sealing_log_seals_what_was_kept_meanwhile(tmp_path: Path, store: DatabaseStore) -> None:
    recorder = begin(tt.SealingLog(store, tmp_path))
    for turn in (1, 2, 3):
        store.add_verdict(verdict_of(recorder.run_id, turn * 1000))
        say(recorder, turn, tokens=1)
        with tt.open_store(tmp_path) as sealed:
            assert sealed.verdicts(recorder.run_id) == store.verdicts(recorder.run_id)
    recorder.finish()

    assert len(files_in(tmp_path, "verdicts")) == 3
    with tt.open_store(tmp_path) as sealed:
        assert tt.check(sealed, recorder.run_id).ok


@pytest.mark.parametrize("killed_at", [1, 2])
def test_adding_to_sealed_files_can_be_killed_and_done_again(
    tmp_path: Path, store: DatabaseStore, monkeypatch: pytest.MonkeyPatch, killed_at: int
) -> None:
    run_id = make_run(store)
    store.add_verdict(verdict_of(run_id, 1000))
    tt.export_parquet(store.recording(run_id), store, tmp_path)
    store.add_verdict(verdict_of(run_id, 2000))
    commit, placed = TableFile.commit, []

    def kill(file: TableFile) -> None:
        placed.append(file.name)
        if len(placed) == killed_at:
            raise KeyboardInterrupt
        commit(file)

    with monkeypatch.context() as patched:
        patched.setattr(TableFile, "commit", kill)
        with pytest.raises(KeyboardInterrupt):
            tt.export_parquet(store.recording(run_id), store, tmp_path)
    with tt.open_store(tmp_path) as sealed:
        assert [each.at_us for each in sealed.verdicts(run_id)] == [1000]
        assert len(list(sealed.recording(run_id).records())) == tt.check(store, run_id).events
    store.add_verdict(verdict_of(run_id, 3000))
    tt.export_parquet(store.recording(run_id), store, tmp_path)
    with tt.open_store(tmp_path) as sealed:
        assert sealed.verdicts(run_id) == store.verdicts(run_id)
        assert sealed.verify_files(run_id) == []
    assert len(pd.read_parquet(tmp_path / "verdicts")) == 3


def test_others_read_them_alone(tmp_path: Path, store: DatabaseStore) -> None:
    run_id = make_run(store, turns=1)
    report = {"reason": "why", "duration_us": 2_500, "turns": [{"tokens": 4}]}
    store.add_verdict(verdict_of(run_id, report=report))
    store.add_floor(floor_of(run_id))
    tt.export_parquet(store.recording(run_id), store, tmp_path)
    frame = pd.read_parquet(tmp_path / "verdicts")
    floors = pd.read_parquet(tmp_path / "floors")
    lazy = pl.scan_parquet(f"{tmp_path}/verdicts/**/*.parquet", hive_partitioning=True)
    asked = f"SELECT reason, tokens, report FROM '{tmp_path}/verdicts/**/*.parquet'"

    assert frame[["run_id", "verdict", "tokens"]].astype(object).to_numpy().tolist() == [
        [run_id, "verified", 4]
    ]
    assert frame["at"].tolist() == [pd.Timestamp(10**18, tz="UTC")]
    assert json.loads(frame["report"].iloc[0]) == report
    assert json.loads(floors["floor"].iloc[0]) == {"margin_eps": 0.001}
    assert lazy.select("duration_us", "run_id").collect().rows() == [(2_500, run_id)]
    ((reason, tokens, body),) = duckdb.sql(asked).fetchall()
    assert (reason, tokens, json.loads(body)) == ("why", 4, report)


def test_a_tape_lists_them_with_their_sums_and_is_the_same_each_time(
    tmp_path: Path, store: DatabaseStore
) -> None:
    run_id = make_run(store, turns=1)
    store.add_verdict(verdict_of(run_id))
    path = tt.pack([store.recording(run_id)], store, tmp_path / "run.tape")
    with tt.open_store(path) as tape:
        again = tt.pack([tape.recording(run_id)], tape, tmp_path / "again.tape")
    with zipfile.ZipFile(path) as archive:
        listed = json.loads(archive.read("manifest.json"))["files"]

    assert any(name.startswith("verdicts/") for name in listed)
    assert not any(name.startswith("floors/") for name in listed)
    assert again.read_bytes() == path.read_bytes()


@pytest.mark.parametrize("form", ["parquet", "tape", "jsonl"])
def test_an_import_adds_what_is_not_there_yet(
    form: str, tmp_path: Path, store: DatabaseStore
) -> None:
    run_id = make_run(store, turns=1)
    ours, theirs, both = (verdict_of(run_id, at_us) for at_us in (3000, 1000, 2000))
    with tt.open_store("sqlite://") as other:
        tt.import_runs(copied(store, run_id, tmp_path / "ours", form), other)
        for verdict in (ours, both):
            store.add_verdict(verdict)
        for verdict in (both, theirs):
            other.add_verdict(verdict)
        other.add_floor(floor_of(run_id))
        path = copied(other, run_id, tmp_path / "theirs", form)
        assert [each.added for each in tt.import_runs(path, store)] == [False]
        tt.import_runs(path, store)

    assert store.verdicts(run_id) == [theirs, both, ours]
    assert store.floors(run_id) == [floor_of(run_id)]


def copied(store: DatabaseStore, run_id: str, path: Path, form: str) -> Path:
    recording = store.recording(run_id)
    if form == "parquet":
        tt.export_parquet(recording, store, path)
        return path
    export = tt.pack if form == "tape" else tt.export_jsonl
    return export([recording], store, path.with_suffix(f".{form}"))


def test_what_was_sealed_before_there_were_any_has_none(tmp_path: Path) -> None:
    with zipfile.ZipFile(TAPE) as archive:
        archive.extractall(tmp_path)
    for path in (TAPE, tmp_path):
        with tt.open_store(path) as sealed:
            for summary in sealed.summaries():
                assert sealed.verdicts(summary.run_id) == sealed.floors(summary.run_id) == []
            assert len(tt.verdicts_df(sealed)) == 0


@pytest.mark.parametrize("table", ["verdicts", "floors"])
def test_a_damaged_file_of_them_is_named_and_the_run_is_read_as_ever(
    tmp_path: Path, store: DatabaseStore, table: str, cli: Cli
) -> None:
    run_id = make_run(store)
    store.add_verdict(verdict_of(run_id))
    store.add_floor(floor_of(run_id))
    tt.export_parquet(store.recording(run_id), store, tmp_path)
    (path,) = tmp_path.glob(f"{table}/*/*/*")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with tt.open_store(tmp_path) as sealed:
        assert list(sealed.recording(run_id).records()) == list(store.recording(run_id).records())
    code, out, _ = cli("check", run_id, "--store", str(tmp_path))

    assert code == 1
    assert path.relative_to(tmp_path).as_posix() in out
    path.unlink()
    with tt.open_store(tmp_path) as sealed:
        with pytest.raises(tt.StoreError, match=f"cannot read .*{table}/.*part-00000") as caught:
            getattr(sealed, table)(run_id)
        assert "\n" not in str(caught.value)
    # The next that seals the run makes up for it.
    tt.export_parquet(store.recording(run_id), store, tmp_path)
    with tt.open_store(tmp_path) as sealed:
        assert sealed.verdicts(run_id) == store.verdicts(run_id)


@pytest.mark.parametrize(
    "change",
    [
        {"at": "soon"},
        {"at": None},
        {"report": []},
        {"verdict": 3},
        {"more": 1},
        {"at": "2027-01-01T00:00:00"},
    ],
)
def test_a_damaged_line_adds_nothing_of_the_run(
    tmp_path: Path, store: DatabaseStore, change: dict[str, Any]
) -> None:
    run_id = make_run(store, turns=1)
    store.add_verdict(verdict_of(run_id))
    path = tt.export_jsonl([store.recording(run_id)], store, tmp_path / "run.jsonl")
    lines = path.read_text(encoding="utf-8").splitlines()
    lines[-1] = json.dumps(json.loads(lines[-1]) | change)
    path.write_text("\n".join(lines), encoding="utf-8")
    with tt.open_store("sqlite://") as other:
        with pytest.raises(tt.StoreError, match=r"run\.jsonl: the line at byte") as caught:
            tt.import_runs(path, other)
        assert "\n" not in str(caught.value)
        assert other.summaries() == []
