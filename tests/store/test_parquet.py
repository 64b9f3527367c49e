"""A sealed run is equal to the recorded one, readable by other programs, and names its damage."""

from pathlib import Path

import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import tokentape as tt
from tests.store.duckdb_versions import duckdb_of_tokens
from tests.store.made_runs import make_run
from tokentape.recorder import Record
from tokentape.recorder.events import ToolReturned
from tokentape.recorder.seals import check_seals
from tokentape.store import DatabaseStore
from tokentape.store.arrow import EVENTS, TOKENS
from tokentape.store.source import Selection


@pytest.fixture
def sealed(tmp_path: Path, store: DatabaseStore) -> tuple[Path, tt.Recording]:
    recording = store.recording(make_run(store))
    tt.export_parquet(recording, store, tmp_path / "sealed")
    return tmp_path / "sealed", recording


def records_in(folder: Path, run_id: str) -> list[Record]:
    with tt.open_store(folder) as opened:
        return list(opened.recording(run_id).records())


def test_records_come_back_as_they_were_kept(sealed: tuple[Path, tt.Recording]) -> None:
    folder, recording = sealed
    with tt.open_store(folder) as opened:
        copy = opened.recording(recording.run_id)

        assert list(copy.records()) == list(recording.records())
        assert list(copy.events()) == list(recording.events())
        assert check_seals(copy.run_id, copy.records()).sealed_turns == 3
        assert opened.verify_files(recording.run_id) == []
        assert opened.blob(payload_sum(recording)) == b"payload 2"


def test_a_run_is_found_by_the_beginning_of_its_id(sealed: tuple[Path, tt.Recording]) -> None:
    folder, recording = sealed
    with tt.open_store(folder) as opened:
        assert opened.recording(recording.run_id[:9]).run_id == recording.run_id
        for nothing in ("nothing", "", f"{recording.run_id}0"):
            with pytest.raises(tt.NoSuchRunError, match="has no run"):
                opened.recording(nothing)


def payload_sum(recording: tt.Recording) -> str:
    (returned,) = (e.event for e in recording.events() if isinstance(e.event, ToolReturned))
    return returned.payload_sha256


@pytest.mark.parametrize(
    "reader", ["pandas", "polars", pytest.param("duckdb", marks=duckdb_of_tokens)]
)
def test_others_read_the_tokens_alone(sealed: tuple[Path, tt.Recording], reader: str) -> None:
    folder, recording = sealed
    if reader == "pandas":
        frame = pd.read_parquet(folder / "tokens")
    elif reader == "polars":
        frame = pl.read_parquet(folder / "tokens").to_pandas()
    else:
        files = f"{folder}/tokens/**/*.parquet"
        frame = (
            duckdb.sql(f"SELECT * FROM read_parquet('{files}') ORDER BY seq")
            .to_arrow_table()
            .to_pandas()
        )
    recorded = [token for turn in recording.turns() for token in turn.tokens]

    assert frame["token_id"].tolist() == [token.token_id for token in recorded]
    assert frame["logprob"].tolist() == [token.logprob for token in recorded]
    assert frame["duration_us"].tolist() == [token.duration_us for token in recorded]
    assert [tuple(each) for each in frame["top_ids"]] == [t.top_ids for t in recorded]
    assert [tuple(each) for each in frame["top_logprobs"]] == [
        token.top_logprobs for token in recorded
    ]
    assert frame["run_id"].astype(str).unique().tolist() == [recording.run_id]
    assert frame["schema"].astype(int).unique().tolist() == [1]
    assert frame["logprob"].dtype == "float32"
    at_us = [record.at_us for record in recording.records() if record.kind == "TokenSampled"]
    times = pd.to_datetime(frame["at"], utc=True).dt.as_unit("us")
    assert times.astype("int64").tolist() == at_us


@pytest.mark.parametrize("reader", ["pandas", "polars", "duckdb"])
def test_others_read_events_and_runs_alone(sealed: tuple[Path, tt.Recording], reader: str) -> None:
    folder, recording = sealed

    def read(table: str) -> pd.DataFrame:
        if reader == "pandas":
            return pd.read_parquet(folder / table)
        if reader == "polars":
            return pl.read_parquet(folder / table).to_pandas()
        return (
            duckdb.sql(f"FROM read_parquet('{folder}/{table}/**/*.parquet')")
            .to_arrow_table()
            .to_pandas()
        )

    records = [each for each in recording.records() if each.kind != "TokenSampled"]
    assert read("events").sort_values("seq")["kind"].tolist() == [each.kind for each in records]
    assert read("events").sort_values("seq")["body"].tolist() == [each.body for each in records]
    assert read("runs")["name"].tolist() == [recording.started().name]
    assert read("blobs")["payload"].map(bytes).tolist() == [b"payload 2"]


def test_files_name_their_schema_run_model_and_seal(sealed: tuple[Path, tt.Recording]) -> None:
    folder, recording = sealed
    last = list(recording.records())[-1]
    for path in folder.rglob("*.parquet"):
        found = pq.read_metadata(path).metadata

        assert found[b"tokentape.schema"] == b"1"
        assert found[b"tokentape.run_id"].decode() == recording.run_id
        assert b'"weights_sha256": "w"' in found[b"tokentape.fingerprints"]
        assert found[b"tokentape.last_seal"].decode() == last.seal
        assert int(found[b"tokentape.events"]) == last.seq + 1


def test_floats_are_split_into_bytes_and_counters_into_steps(
    sealed: tuple[Path, tt.Recording],
) -> None:
    (path,) = sealed[0].glob("tokens/*/*/*.parquet")
    group = pq.read_metadata(path).row_group(0)
    columns = {group.column(i).path_in_schema: group.column(i) for i in range(group.num_columns)}

    assert "BYTE_STREAM_SPLIT" in columns["logprob"].encodings
    assert "BYTE_STREAM_SPLIT" in columns["top_logprobs.list.element"].encodings
    assert "DELTA_BINARY_PACKED" in columns["at"].encodings
    assert columns["logprob"].compression == "ZSTD"
    assert columns["turn"].statistics.max == 3


def test_tables_have_the_columns_and_rows_that_were_asked_for(
    sealed: tuple[Path, tt.Recording], store: DatabaseStore
) -> None:
    folder, recording = sealed
    other = store.recording(make_run(store, turns=1))
    tt.export_parquet(other, store, folder)
    with tt.open_store(folder) as opened:
        tokens = opened.tokens_table(Selection())
        second = opened.tokens_table(
            Selection(run_ids=(recording.run_id,), turns=(2,), columns=("step", "top_ids"))
        )
        finished = opened.events_table(
            Selection(kinds=("TurnFinished",), columns=("run_id", "turn"))
        )
        none = opened.tokens_table(Selection(run_ids=("nobody",)))

    without_candidates = [
        field for field in TOKENS if field.name not in ("top_ids", "top_logprobs")
    ]
    assert tokens.schema.equals(pa.schema(without_candidates))
    assert tokens["run_id"].to_pylist() == [recording.run_id] * 12 + [other.run_id] * 4
    assert second.column_names == ["run_id", "seq", "at", "step", "top_ids"]
    assert second["top_ids"].to_pylist() == [[0, 1]] * 4
    assert second["step"].to_pylist() == [0, 1, 2, 3]
    assert finished["turn"].to_pylist() == [1, 2, 3, 1]
    assert finished.schema.field("run_id") == EVENTS.field("run_id")
    assert none.num_rows == 0
    assert none.schema.equals(tokens.schema)


def test_tables_are_those_of_the_live_store(
    sealed: tuple[Path, tt.Recording], store: DatabaseStore
) -> None:
    with tt.open_store(sealed[0]) as opened:
        for chosen in ({}, {"turns": (1, 3)}, {"kinds": ("TurnStarted",)}):
            ours = opened.events_table(Selection(**chosen))
            assert ours.to_pylist() == store.events_table(Selection(**chosen)).to_pylist()
        for chosen in ({}, {"turns": (1, 3)}, {"columns": ("step", "logprob")}):
            ours = opened.tokens_table(Selection(**chosen))
            live = store.tokens_table(Selection(**chosen))
            assert ours.to_pylist() == live.to_pylist()
            assert ours.schema.equals(live.schema)
        assert opened.summaries() == store.summaries()


def test_a_run_without_tokens_or_payloads_is_sealed(tmp_path: Path, store: DatabaseStore) -> None:
    recording = store.recording(make_run(store, turns=0))
    tt.export_parquet(recording, store, tmp_path)

    assert records_in(tmp_path, recording.run_id) == list(recording.records())
    assert len(pd.read_parquet(tmp_path / "tokens")) == 0
    assert not (tmp_path / "blobs").exists()


@pytest.mark.parametrize("run_id", ["../../up", "a/b\\c", "line\nbreak\x00", "run_id=%2e é", ".."])
def test_any_run_id_stays_in_its_folder(tmp_path: Path, store: DatabaseStore, run_id: str) -> None:
    make_run(store, turns=1, run_id=run_id)
    tt.export_parquet(store.recording(run_id), store, tmp_path / "sealed")
    tt.pack([store.recording(run_id)], store, tmp_path / "one.tape")

    assert {each.name for each in tmp_path.iterdir()} == {"sealed", "one.tape"}
    for copy in ("sealed", "one.tape"):
        assert records_in(tmp_path / copy, run_id) == list(store.recording(run_id).records())
    if "\x00" not in run_id:
        assert pd.read_parquet(tmp_path / "sealed" / "tokens")["run_id"].tolist() == [run_id] * 4


@pytest.mark.parametrize("table", ["runs", "events", "tokens", "blobs"])
@pytest.mark.parametrize("harm", ["truncated", "garbage", "missing"])
def test_a_damaged_file_is_one_line_with_its_name(
    sealed: tuple[Path, tt.Recording], table: str, harm: str
) -> None:
    folder, recording = sealed
    (path,) = folder.glob(f"{table}/*/*/*.parquet")
    if harm == "missing":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:200] if harm == "truncated" else b"\x00garbage" * 40)

    with tt.open_store(folder) as opened:
        faults = opened.verify_files(recording.run_id)
        assert any(path.name in fault for fault in faults)
        with pytest.raises(tt.StoreError) as caught:
            opened.summaries()
            opened.recording(recording.run_id)
            list(opened.recording(recording.run_id).records())
            opened.tokens_table(Selection())
            opened.blob(payload_sum(recording))
    assert "\n" not in str(caught.value)
    assert harm == "missing" or f"{table}/schema=1/" in str(caught.value)


@pytest.mark.parametrize("table", ["runs", "events", "tokens", "blobs"])
def test_a_flipped_byte_is_found(sealed: tuple[Path, tt.Recording], table: str) -> None:
    folder, recording = sealed
    (path,) = folder.glob(f"{table}/*/*/*.parquet")
    whole = bytearray(path.read_bytes())
    whole[len(whole) // 8] ^= 1
    path.write_bytes(whole)
    with tt.open_store(folder) as opened:
        (fault,) = opened.verify_files(recording.run_id)

    assert f"{table}/schema=1/" in fault


@pytest.mark.parametrize("table", ["runs", "events", "tokens", "blobs"])
def test_a_run_is_not_blamed_for_another(
    sealed: tuple[Path, tt.Recording], store: DatabaseStore, table: str
) -> None:
    folder, recording = sealed
    other = store.recording(make_run(store, turns=2, tokens=5))
    tt.export_parquet(other, store, folder)
    (path,) = folder.glob(f"{table}/*/run_id={other.run_id}/*.parquet")
    path.with_name(".part-00009.parquet.0.tmp").write_text("left by a process that was killed")
    path.write_bytes(path.read_bytes()[:200])
    with tt.open_store(folder) as opened:
        assert opened.verify_files(recording.run_id) == []
        assert opened.blob(payload_sum(recording)) == b"payload 2"
        assert opened.verify_files(other.run_id) != []


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("fingerprints", '{"weights_sha256": "another"}'),
        ("last_seal", "blake2b-256:00"),
        ("events", "7"),
        ("schema", "3"),
    ],
)
def test_metadata_that_says_what_is_not_so_is_found(
    sealed: tuple[Path, tt.Recording], name: str, told: str
) -> None:
    folder, recording = sealed
    (path,) = folder.glob("runs/*/*/*.parquet")
    table = pq.read_table(path, partitioning=None)
    told_of = {**pq.read_metadata(path).metadata, f"tokentape.{name}".encode(): told.encode()}
    pq.write_table(table.replace_schema_metadata(told_of), path)
    with tt.open_store(folder) as opened:
        (fault,) = opened.verify_files(recording.run_id)

    assert "runs/schema=1/" in fault
    assert f"says {name} {told[:4] if name != 'fingerprints' else ''}" in fault


def test_a_folder_of_a_newer_schema_is_refused(
    sealed: tuple[Path, tt.Recording], store: DatabaseStore
) -> None:
    folder, recording = sealed
    (folder / "runs" / "schema=1").rename(folder / "runs" / "schema=2")
    with pytest.raises(tt.NewerRecordingError, match="schema=2"):
        tt.open_store(folder)
    with pytest.raises(tt.NewerRecordingError, match="schema=2"):
        tt.export_parquet(recording, store, folder)


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(tt.StoreError, match="holds no sealed runs"):
        tt.open_store(tmp_path)


@pytest.mark.parametrize("folder", ["with\x00nul", "f" * 300])
def test_a_folder_that_cannot_be_is_a_store_error(
    tmp_path: Path, sealed: tuple[Path, tt.Recording], store: DatabaseStore, folder: str
) -> None:
    with pytest.raises(tt.StoreError, match="cannot write"):
        tt.export_parquet(sealed[1], store, tmp_path / folder)
    with pytest.raises(tt.StoreError, match="cannot write"):
        tt.pack([sealed[1]], store, tmp_path / f"{folder}.tape")
