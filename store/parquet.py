"""A sealed run: Parquet files in hive folders, readable by pandas, DuckDB and polars alone.

`<folder>/<table>/schema=1/run_id=<id>/part-00000.parquet` for the tables runs, events, tokens and
blobs. The folder names carry `schema` and `run_id`; the file metadata repeats them beside the
model's fingerprints. The file of `runs` is put in place last: a run without it is not sealed yet.
"""

import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, Protocol, Self

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from recorder import Envelope, Recording, RecordingError
from recorder.codec import decode_body, encode_body, kind_of
from recorder.events import RunStarted, TokenSampled, ToolReturned
from recorder.projections import RunSummary, summarise_all
from store.errors import NewerStoreError, StoreError
from store.reader import only_match

SCHEMA_VERSION = 1
ROW_GROUP_ROWS = 131_072

_EVENTS = pa.schema(
    [
        ("seq", pa.int32()),
        ("at_ns", pa.int64()),
        ("kind", pa.dictionary(pa.int8(), pa.string())),
        ("version", pa.int16()),
        ("body", pa.string()),
    ]
)
_TOKENS = pa.schema(
    [
        ("seq", pa.int32()),
        ("at_ns", pa.int64()),
        ("version", pa.int16()),
        ("turn", pa.int32()),
        ("step", pa.int32()),
        ("position", pa.int32()),
        ("token_id", pa.int32()),
        ("logprob", pa.float32()),
        ("logprob_processed", pa.float32()),
        ("entropy", pa.float32()),
        ("top_gap", pa.float32()),
        ("duration_ms", pa.float64()),
        ("candidate_ids", pa.list_(pa.int32())),
        ("candidate_logprobs", pa.list_(pa.float32())),
    ]
)
_BLOBS = pa.schema([("sha256", pa.string()), ("payload", pa.binary())])
_RUNS = pa.schema(
    [
        ("name", pa.string()),
        ("status", pa.string()),
        ("model", pa.string()),
        ("seed", pa.int64()),
        ("started_at_ns", pa.int64()),
        ("updated_at_ns", pa.int64()),
        ("turns", pa.int32()),
        ("prompt_tokens", pa.int64()),
        ("reused_tokens", pa.int64()),
        ("generated_tokens", pa.int64()),
    ]
)
_FLOATS = ("logprob", "logprob_processed", "entropy", "top_gap", "duration_ms")


class BlobSource(Protocol):
    def blob(self, sha256: str) -> bytes: ...


def export_parquet(recording: Recording, blobs: BlobSource, folder: Path) -> list[Path]:
    """Seal a run into the folder and return the files written.

    A run that is there already is replaced, file by file; other runs in the folder stay.
    Raises StoreError where the folder cannot be written, RecordingError for a damaged run.
    """
    envelopes = list(recording.events())
    summary = summarise_all(envelopes)
    if summary is None:
        raise RecordingError(f"run {recording.run_id} has no RunStarted")
    shas = {e.event.payload_sha256 for e in envelopes if isinstance(e.event, ToolReturned)}
    tables = {
        "events": _table(_EVENTS, (_event_row(e) for e in envelopes if not _is_token(e))),
        "tokens": _table(_TOKENS, (_token_row(e) for e in envelopes if _is_token(e))),
        "blobs": _table(_BLOBS, ({"sha256": s, "payload": blobs.blob(s)} for s in sorted(shas))),
        "runs": _table(_RUNS, [asdict(summary)]),
    }
    metadata = _file_metadata(recording)
    try:
        return [
            _write(table.replace_schema_metadata(metadata), _part(folder, name, summary.run_id))
            for name, table in tables.items()
        ]
    except OSError as error:
        raise StoreError(f"cannot write to {folder}: {error}") from None


def _is_token(envelope: Envelope) -> bool:
    return isinstance(envelope.event, TokenSampled)


def _table(schema: pa.Schema, rows: Iterable[dict[str, Any]]) -> pa.Table:
    kept = [{name: row[name] for name in schema.names} for row in rows]
    return pa.Table.from_pylist(kept, schema=schema)


def _event_row(envelope: Envelope) -> dict[str, Any]:
    return {
        "seq": envelope.seq,
        "at_ns": envelope.at_ns,
        "kind": kind_of(envelope.event),
        "version": envelope.event.version,
        "body": encode_body(envelope.event),
    }


def _token_row(envelope: Envelope) -> dict[str, Any]:
    return {
        "seq": envelope.seq,
        "at_ns": envelope.at_ns,
        "version": envelope.event.version,
    } | {field.name: getattr(envelope.event, field.name) for field in fields(envelope.event)}


def _file_metadata(recording: Recording) -> dict[str, str]:
    started: RunStarted = recording.started()
    prints = ("weights_sha256", "tokenizer_sha256", "template_sha256", "sampler_sha256")
    return {
        "tokentape.schema": str(SCHEMA_VERSION),
        "tokentape.run_id": recording.run_id,
        "tokentape.fingerprints": json.dumps({name: getattr(started, name) for name in prints}),
    }


def _part(folder: Path, table: str, run_id: str) -> Path:
    return folder / table / f"schema={SCHEMA_VERSION}" / f"run_id={run_id}" / "part-00000.parquet"


def _write(table: pa.Table, path: Path) -> Path:
    """Write beside the path and rename: a reader sees the whole file or none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    floats = [name for name in _FLOATS if name in table.column_names]
    dictionary = [
        name for name in table.column_names if name not in floats and not name.startswith("cand")
    ]
    byte_split = [*floats, "candidate_logprobs.list.element"] if floats else False
    try:
        pq.write_table(
            table,
            aside,
            compression="zstd",
            row_group_size=ROW_GROUP_ROWS,
            use_dictionary=[*dictionary, "candidate_ids.list.element"] if floats else dictionary,
            use_byte_stream_split=byte_split,
        )
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
    return path


class ParquetStore:
    """Sealed runs in a folder, to read."""

    def __init__(self, folder: Path) -> None:
        self.where = str(folder)
        self._folder = folder
        newer = [p for p in folder.glob("runs/schema=*") if p.name != f"schema={SCHEMA_VERSION}"]
        if newer:
            raise NewerStoreError(f"{folder} holds {newer[0].name}: upgrade tokentape to read it")
        if not (folder / "runs").is_dir():
            raise StoreError(f"{folder} holds no sealed runs: it has no folder `runs`")

    def close(self) -> None:
        """Nothing is held open."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def summaries(self) -> list[RunSummary]:
        """Every sealed run, the newest last."""
        found = [
            RunSummary(run_id=run_id, **self._read("runs", run_id).to_pylist()[0])
            for run_id in self._run_ids()
        ]
        return sorted(found, key=lambda summary: (summary.started_at_ns, summary.run_id))

    def recording(self, run_id: str) -> Recording:
        """The run with that id, or with the one id that begins so. Raises NoSuchRunError."""
        matches = (found for found in self._run_ids() if found.startswith(run_id))
        full_id = only_match(matches, run_id, self.where)
        return Recording(full_id, lambda: self._envelopes(full_id), self.where)

    def blob(self, sha256: str) -> bytes:
        """The payload under a hexadecimal sha256. Raises StoreError where there is none."""
        for run_id in self._run_ids():
            for row in self._read("blobs", run_id).to_pylist():
                if row["sha256"] == sha256:
                    return bytes(row["payload"])
        raise StoreError(f"{self.where} has no blob {sha256}")

    def events_frame(
        self, run_id: str | None = None, kinds: Iterable[str] | None = None
    ) -> pd.DataFrame:
        """Rows of `events`: run_id, seq, at_ns, kind, version, body."""
        frame = self._frame("events", run_id)
        frame["kind"] = frame["kind"].astype(str)
        return frame if kinds is None else frame.loc[frame["kind"].isin(list(kinds))]

    def tokens_frame(self, run_id: str | None = None) -> pd.DataFrame:
        """Rows of `tokens`."""
        return self._frame("tokens", run_id)

    def _frame(self, table: str, run_id: str | None) -> pd.DataFrame:
        parts = []
        for each in self._run_ids() if run_id is None else [run_id]:
            part = self._read(table, each).to_pandas()
            part.insert(0, "run_id", each)
            parts.append(part)
        frame: pd.DataFrame = pd.concat(parts, ignore_index=True)
        return frame

    def _run_ids(self) -> list[str]:
        pattern = f"runs/schema={SCHEMA_VERSION}/run_id=*/part-*.parquet"
        return sorted(p.parent.name.removeprefix("run_id=") for p in self._folder.glob(pattern))

    def _read(self, table: str, run_id: str) -> pa.Table:
        path = _part(self._folder, table, run_id)
        try:
            # Not read_table: that would add the columns that the folder names spell.
            return pq.ParquetFile(path).read()
        except (OSError, pa.ArrowException) as error:
            raise StoreError(f"cannot read {path}: {error}") from None

    def _envelopes(self, run_id: str) -> Iterator[Envelope]:
        found: list[Envelope] = []
        for row in self._read("events", run_id).to_pylist():
            event = decode_body(row["kind"], row["version"], row["body"])
            found.append(Envelope(run_id, row["seq"], row["at_ns"], event))
        for row in self._read("tokens", run_id).to_pylist():
            seq, at_ns, _version = row.pop("seq"), row.pop("at_ns"), row.pop("version")
            row["candidate_ids"] = tuple(row["candidate_ids"])
            row["candidate_logprobs"] = tuple(row["candidate_logprobs"])
            found.append(Envelope(run_id, seq, at_ns, TokenSampled(**row)))
        return iter(sorted(found, key=lambda envelope: envelope.seq))
