"""Sealed runs as Parquet files, readable by pandas, DuckDB and polars alone.

Each column has the encoding that was measured to be smallest; see `docs/files.md`. The metadata of
each file has the keys `tokentape.schema`, `.run_id`, `.fingerprints` of the model, `.events` (how
many of the run's events precede the end of the file) and `.last_seal` (that of the last of them).
The file of `runs`, which is written last, also has `.summary`, its row as JSON, and `.files`, the
sizes and sha256 of the run's other files.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pyarrow as pa
import pyarrow.parquet as pq

from tokentape.recorder import Record
from tokentape.recorder.atomic_write import AtomicFile
from tokentape.recorder.projections import RunSummary
from tokentape.store.arrow import AT, BLOBS, EVENTS, FLOORS, LABELS, RUNS, TOKENS, VERDICTS, of_file
from tokentape.store.attachments import Attachment, row_of

SCHEMAS: dict[str, pa.Schema] = {
    "runs": RUNS,
    "events": EVENTS,
    "tokens": TOKENS,
    "blobs": BLOBS,
    "verdicts": VERDICTS,
    "floors": FLOORS,
    "run_labels": LABELS,
}
ROW_GROUP_ROWS = 131_072
METADATA_PREFIX = "tokentape."
_DICTIONARY = ("kind",)
_ENCODINGS = {
    "seq": "DELTA_BINARY_PACKED",
    "at": "DELTA_BINARY_PACKED",
    "turn": "DELTA_BINARY_PACKED",
    "step": "DELTA_BINARY_PACKED",
    "position": "DELTA_BINARY_PACKED",
    "duration_us": "BYTE_STREAM_SPLIT",
    "token_id": "BYTE_STREAM_SPLIT",
    "logprob": "BYTE_STREAM_SPLIT",
    "logprob_processed": "BYTE_STREAM_SPLIT",
    "entropy": "BYTE_STREAM_SPLIT",
    "top_gap": "BYTE_STREAM_SPLIT",
    "top_logprobs.list.element": "BYTE_STREAM_SPLIT",
}
# Payloads and reports can be large, and a turn waits until it is sealed: compress them less.
_LEVELS = {"runs": 19, "events": 19, "tokens": 19, "run_labels": 19} | dict.fromkeys(
    ("blobs", "verdicts", "floors"), 3
)
# Statistics by which readers skip row groups.
_STATISTICS = ("seq", "turn", "sha256")


@dataclass(frozen=True, slots=True, kw_only=True)
class SealedFile:
    """A finished file of a sealed run."""

    name: str
    bytes: int
    sha256: str


class TableFile:
    """A Parquet file that is written under a temporary name, and renamed by `commit`.

    Nothing is created until the first rows come or `finish` is called. Used as a context manager,
    it removes the temporary file unless that was committed.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self.name, self.path = name, folder / name
        self.rows = 0
        self._file: AtomicFile | None = None
        self._writer: Any = None

    @property
    def tmp_path(self) -> Path:
        """Where the rows are until `commit`."""
        return self._opened().tmp_path

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if self._writer is not None:
                self._writer.close()
        finally:
            if self._file is not None:
                self._file.discard()

    def add(self, rows: pa.Table) -> None:
        """Write a row group; without rows, nothing."""
        if rows.num_rows:
            self._opened()
            self._writer.write_table(rows)
            self.rows += rows.num_rows

    def finish(self, metadata: Mapping[str, str]) -> SealedFile:
        """Write the footer with the metadata, and wait until the file has reached the disk."""
        file = self._opened()
        self._writer.add_key_value_metadata(
            {f"{METADATA_PREFIX}{name}": value for name, value in metadata.items()}
        )
        self._writer.close()
        file.sync()
        with file.tmp_path.open("rb") as content:
            sha256 = hashlib.file_digest(content, "sha256").hexdigest()
            return SealedFile(name=self.name, bytes=content.tell(), sha256=sha256)

    def commit(self) -> None:
        """Rename the finished file to `path`, and wait until its name has reached the disk."""
        self._opened().commit()

    def _opened(self) -> AtomicFile:
        if self._file is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = AtomicFile(self.path, durable=True)
            table = self.name.split("/")[0]
            schema = of_file(SCHEMAS[table])
            settings = _settings(schema, _LEVELS[table])
            self._writer = pq.ParquetWriter(self._file.tmp_path, schema, **settings)
        return self._file


def _settings(schema: pa.Schema, level: int) -> dict[str, Any]:
    leaves = [
        f"{field.name}.list.element" if pa.types.is_list(field.type) else field.name
        for field in schema
    ]
    return {
        "compression": "zstd",
        "compression_level": level,
        "use_dictionary": [name for name in leaves if name in _DICTIONARY],
        "column_encoding": {
            name: _ENCODINGS.get(name, "PLAIN") for name in leaves if name not in _DICTIONARY
        },
        "write_statistics": [name for name in leaves if name in _STATISTICS],
        "write_page_checksum": "name" in leaves,
        # Arrow's schema would take a kilobyte a file, and the Parquet types say the same.
        "store_schema": False,
    }


def events_rows(records: Iterable[Record]) -> pa.Table:
    """Return the rows of `events` for the records that are not sampled tokens."""
    selected = [each for each in records if isinstance(each.body, str)]
    columns = {
        "seq": [each.seq for each in selected],
        "at": _times([each.at_us for each in selected]),
        "turn": [each.turn for each in selected],
        "kind": [each.kind for each in selected],
        "version": [each.version for each in selected],
        "body": [each.body for each in selected],
        "seal": [each.seal for each in selected],
    }
    return _table("events", columns)


def tokens_rows(records: Iterable[Record]) -> pa.Table:
    """Return the rows of `tokens` for the records that are sampled tokens."""
    selected = [(each, each.body) for each in records if not isinstance(each.body, str)]
    columns = {
        name: [body[name] for _, body in selected]
        for name in of_file(TOKENS).names
        if name not in ("seq", "at", "version")
    }
    columns["seq"] = [record.seq for record, _ in selected]
    columns["at"] = _times([record.at_us for record, _ in selected])
    columns["version"] = [record.version for record, _ in selected]
    return _table("tokens", columns)


def runs_row(summary: RunSummary) -> pa.Table:
    """Return the one row of `runs`."""
    columns = {name: [getattr(summary, name, None)] for name in of_file(RUNS).names}
    columns["started_at"] = _times([summary.started_at_us])
    columns["updated_at"] = _times([summary.updated_at_us])
    return _table("runs", columns)


def blobs_rows(payloads: Mapping[str, bytes]) -> pa.Table:
    return _table("blobs", {"sha256": list(payloads), "payload": list(payloads.values())})


def attachment_rows(table: str, attachments: Iterable[Attachment]) -> pa.Table:
    """Return the rows of `verdicts`, `floors` or `run_labels`."""
    rows = [row_of(each) for each in attachments]
    names = [name for name in of_file(SCHEMAS[table]).names if name != "at"]
    columns = {name: [row[name] for row in rows] for name in names}
    return _table(table, columns | {"at": _times([row["at_us"] for row in rows])})


def _table(name: str, columns: Mapping[str, Any]) -> pa.Table:
    schema = of_file(SCHEMAS[name])
    return pa.table({field.name: columns[field.name] for field in schema}, schema=schema)


def _times(at_us: list[int]) -> pa.Array:
    return pa.array(at_us, pa.int64()).cast(AT)
