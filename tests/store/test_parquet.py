"""A sealed run is read by others, and never half written."""

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest

import tokentape as tt
from store import DatabaseStore, parquet


@pytest.fixture
def sealed(
    tmp_path: Path,
    lm: tt.LoadedModel,
    store: DatabaseStore,
    record: Callable[..., tt.Recording],
) -> tuple[Path, tt.Recording]:
    recording = record(lm, store)
    tt.export_parquet(recording, store, tmp_path / "sealed")
    return tmp_path / "sealed", recording


def test_bare_pandas_reads_the_tokens(sealed: tuple[Path, tt.Recording]) -> None:
    folder, recording = sealed
    frame = pd.read_parquet(folder / "tokens")
    recorded = [token for turn in recording.turns() for token in turn.tokens]

    assert frame["token_id"].tolist() == [token.token_id for token in recorded]
    assert frame["logprob"].tolist() == [token.logprob for token in recorded]
    assert frame["run_id"].unique().tolist() == [recording.run_id]
    assert frame["logprob"].dtype == "float32"


def test_files_name_their_schema_run_and_model(sealed: tuple[Path, tt.Recording]) -> None:
    folder, recording = sealed
    (path,) = folder.glob("tokens/schema=1/run_id=*/part-*.parquet")
    file = pq.ParquetFile(path)
    column = file.metadata.row_group(0).column(file.schema_arrow.get_field_index("logprob"))

    assert file.schema_arrow.metadata[b"tokentape.run_id"].decode() == recording.run_id
    assert (
        recording.started().weights_sha256.encode()
        in file.schema_arrow.metadata[b"tokentape.fingerprints"]
    )
    assert "BYTE_STREAM_SPLIT" in column.encodings
    assert column.compression == "ZSTD"


def test_sealing_again_replaces_and_leaves_nothing_beside(
    sealed: tuple[Path, tt.Recording], store: DatabaseStore
) -> None:
    folder, recording = sealed
    before = sorted(folder.rglob("*"))
    tt.export_parquet(recording, store, folder)

    assert sorted(folder.rglob("*")) == before


def test_an_export_that_breaks_leaves_no_run_behind(
    tmp_path: Path,
    lm: tt.LoadedModel,
    store: DatabaseStore,
    record: Callable[..., tt.Recording],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recording = record(lm, store, tokens=2)
    write = parquet.pq.write_table
    written: list[Path] = []

    def break_third(table: object, path: Path, **settings: object) -> None:
        written.append(path)
        if len(written) == 3:
            path.write_bytes(b"half")
            raise OSError("disk full")
        write(table, path, **settings)

    monkeypatch.setattr(parquet.pq, "write_table", break_third)
    with pytest.raises(tt.StoreError, match="disk full"):
        tt.export_parquet(recording, store, tmp_path / "sealed")

    assert not list((tmp_path / "sealed").rglob("*.tmp"))
    with pytest.raises(tt.StoreError, match="no sealed runs"):
        tt.open_store(tmp_path / "sealed")


def test_a_truncated_file_is_a_store_error(sealed: tuple[Path, tt.Recording]) -> None:
    folder, recording = sealed
    (path,) = folder.glob("tokens/*/*/*.parquet")
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(tt.StoreError, match="cannot read"):
        list(tt.open_store(folder).recording(recording.run_id).events())


def test_a_folder_of_a_newer_schema_is_refused(sealed: tuple[Path, tt.Recording]) -> None:
    folder, _ = sealed
    (folder / "runs" / "schema=1").rename(folder / "runs" / "schema=2")
    with pytest.raises(tt.NewerRecordingError, match="schema=2"):
        tt.open_store(folder)
