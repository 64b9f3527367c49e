"""Sealed folders that take far more memory than their size suggests, or lead out of themselves.

`SEALED` has their makers by name. Each takes an empty folder and returns the path of one hostile
store. Most are honest copies in which one file was replaced, and whose list was made to fit.
"""

import hashlib
import io
import os
import struct
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

import tokentape as tt
from tests.made_events import run_started
from tests.store.large_runs import Records, conversation
from tests.store.made_runs import TICKS_US
from tokentape.recorder.events import Event, ToolCalled
from tokentape.store.arrow import EVENTS, RUNS, TOKENS, of_file
from tokentape.store.sealed.parquet import SealedFile, TableFile, runs_row
from tokentape.store.sealed.run_file import read_sealed_run

RUN_ID = "hostile-run"
Maker = Callable[[Path], Path]
_ROWS = 1_000_000
_TEXT_BYTES = 80 * 1024**2


class NoAttachments:
    """A source without payloads, verdicts, floors and labels."""

    def blob(self, sha256: str) -> bytes:
        raise tt.StoreError(sha256)

    def verdicts(self, run_id: str) -> list[Any]:
        return []

    def floors(self, run_id: str) -> list[Any]:
        return []

    def labels(self, run_id: str) -> list[Any]:
        return []


def recording(events: Iterable[Event] = ()) -> tt.Recording:
    """Return an honest recording with two turns and a few more events."""
    log = Records()
    with tt.Recorder(log, run_id=RUN_ID, clock_us=TICKS_US.__next__) as recorder:
        recorder.record(run_started(name="hostile"))
        for event in (*events, *conversation(2, 3)):
            recorder.record(event)
    return tt.Recording(RUN_ID, lambda: iter(log.records))


def sealed(folder: Path, events: Iterable[Event] = ()) -> Path:
    """Write an honest sealed folder and return it."""
    tt.export_parquet(recording(events), NoAttachments(), folder)
    return folder


def part(folder: Path, table: str) -> Path:
    """Return the first file of a table."""
    return folder / table / "schema=1" / f"run_id={RUN_ID}" / "part-00000.parquet"


def replaced(folder: Path, table: str, content: bytes) -> Path:
    """Replace a part of an honest folder, and make the list of files fit. Return the folder."""
    sealed(folder)
    part(folder, table).write_bytes(content)
    return listed(folder, {})


def listed(folder: Path, names: Mapping[str, str]) -> Path:
    """Write the list of a folder's files again, some under other names. Return the folder."""
    path = part(folder, "runs")
    run = read_sealed_run(str(path), "runs")
    files = tuple(_described(folder, each.name, names) for each in run.files)
    run = replace(run, files=files)
    assert run.summary is not None
    with TableFile(folder, path.relative_to(folder).as_posix()) as file:
        file.add(runs_row(run.summary))
        file.finish(run.runs_metadata())
        file.commit()
    return folder


def _described(folder: Path, name: str, names: Mapping[str, str]) -> SealedFile:
    content = (folder / name).read_bytes()
    sha256 = hashlib.sha256(content).hexdigest()
    return SealedFile(name=names.get(name, name), bytes=len(content), sha256=sha256)


def parquet(table: pa.Table, copies: int = 1, **settings: Any) -> bytes:
    """Return a Parquet file of a table's rows, several times over."""
    target = io.BytesIO()
    with pq.ParquetWriter(target, table.schema, compression="zstd", **settings) as writer:
        for _ in range(copies):
            writer.write_table(table)
    return target.getvalue()


def _zeros(schema: pa.Schema, rows: int, **columns: Any) -> pa.Table:
    """Return rows of zeros, empty texts and empty lists, except for some columns."""
    arrays = []
    for field in of_file(schema):
        if field.name in columns:
            arrays.append(pa.array(columns[field.name], field.type))
        elif pa.types.is_list(field.type):
            arrays.append(
                pa.ListArray.from_arrays(
                    pa.repeat(pa.scalar(0, pa.int32()), rows + 1),
                    pa.array([], field.type.value_type),
                )
            )
        elif pa.types.is_string(field.type) or pa.types.is_dictionary(field.type):
            arrays.append(pa.repeat(pa.scalar("", pa.string()), rows))
        else:
            arrays.append(pa.repeat(pa.scalar(0, pa.int64()), rows).cast(field.type))
    return pa.table(arrays, names=of_file(schema).names)


def rows_of_runs(folder: Path) -> Path:
    """20,000,000 rows of zeros in the file of `runs`, which has its honest metadata."""
    sealed(folder)
    path = part(folder, "runs")
    metadata = pq.read_metadata(path).metadata
    table = _zeros(RUNS, _ROWS).replace_schema_metadata(metadata)
    path.write_bytes(parquet(table, 20))
    return folder


def rows_of_tokens(folder: Path) -> Path:
    """5,000,000 equal rows of tokens."""
    return replaced(folder, "tokens", parquet(_zeros(TOKENS, _ROWS), 5))


def long_text(folder: Path) -> Path:
    """A body of 80 MB, compressed to a few kilobytes."""
    table = _zeros(EVENTS, 1, body=["x" * _TEXT_BYTES], kind=["MessageAdded"])
    return replaced(folder, "events", parquet(table, use_dictionary=False))


def long_list(folder: Path) -> Path:
    """A token with 4,000,000 ids in its top k."""
    ids = pa.array([[0] * 4_000_000], pa.list_(pa.int32()))
    return replaced(folder, "tokens", parquet(_zeros(TOKENS, 1, top_ids=ids)))


def wide_dictionary(folder: Path) -> Path:
    """A million rows that repeat one text of 1 MB."""
    texts = pa.DictionaryArray.from_arrays(
        pa.repeat(pa.scalar(0, pa.int32()), _ROWS), pa.array(["x" * 1024**2])
    )
    table = _zeros(EVENTS, _ROWS)
    table = table.set_column(table.column_names.index("body"), "body", texts)
    return replaced(folder, "events", parquet(table))


def repeated_beginnings(folder: Path) -> Path:
    """Texts that each repeat the one before: 10,000 of 100 kB in a few kilobytes."""
    table = _zeros(EVENTS, 10_000, body=["x" * 20_000] * 10_000)
    content = parquet(table, use_dictionary=False, column_encoding={"body": "DELTA_BYTE_ARRAY"})
    return replaced(folder, "events", content)


def lying_footer(folder: Path) -> Path:
    """The body of `long_text`, with a footer that claims 100 bytes for it."""
    table = _zeros(EVENTS, 1, body=["x" * _TEXT_BYTES], kind=["MessageAdded"])
    content = parquet(table, use_dictionary=False)
    group = pq.read_metadata(io.BytesIO(content)).row_group(0)
    sizes = [group.column(each).total_uncompressed_size for each in range(group.num_columns)]
    claimed = _varint(2 * max(sizes))
    padded = _varint(200)
    small = bytes([*(each | 0x80 for each in padded), *[0x80] * len(claimed)])[: len(claimed) - 1]
    assert content.count(claimed) == 1
    return replaced(folder, "events", content.replace(claimed, small + b"\x00"))


def many_columns(folder: Path) -> Path:
    """A footer of 40 bytes that claims 900,000 columns."""
    return replaced(folder, "events", _footer(b"\x19\x1c\x19\xfc" + _varint(900_000) + b"\0" * 9))


def deep_schema(folder: Path) -> Path:
    """A footer whose schema has 50,000 levels."""
    group, leaf = b"\x35\x00\x18\x01a\x15\x02\x00", b"\x15\x02\x25\x00\x18\x01b\x00"
    schema = b"\x19\xfc" + _varint(50_001) + group * 50_000 + leaf
    return replaced(folder, "events", _footer(b"\x19\x0c", schema))


def _footer(row_groups: bytes, schema: bytes = b"\x19\x1c\x48\x01a\x00") -> bytes:
    """Return a Parquet file of nothing but a footer."""
    footer = b"\x15\x04" + schema + b"\x16\x00" + row_groups + b"\x00"
    return b"PAR1" + footer + struct.pack("<I", len(footer)) + b"PAR1"


def _varint(number: int) -> bytes:
    found = []
    while number >= 0x80:
        found.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*found, number])


def wide_json(folder: Path) -> Path:
    """A valid run with a body of 15 MB of empty lists: 5,000,000 Python objects."""
    call = ToolCalled(call_id="c", name="look", arguments={"at": [[]] * 5_000_000})
    return sealed(folder, [call])


def names_outside(folder: Path) -> Path:
    """Metadata that lists a file outside of the folder."""
    sealed(folder / "inside")
    name = part(folder / "inside", "events").relative_to(folder / "inside").as_posix()
    (folder / "private.parquet").write_bytes((folder / "inside" / name).read_bytes())
    return listed(folder / "inside", {name: "events/../../private.parquet"})


def absolute_name(folder: Path) -> Path:
    """Metadata that lists an absolute path."""
    sealed(folder)
    name = part(folder, "events").relative_to(folder).as_posix()
    return listed(folder, {name: f"events/{folder}/{name}"})


def name_twice(folder: Path) -> Path:
    """Metadata that lists one file under the name of another, too."""
    sealed(folder)
    events, tokens = (
        part(folder, each).relative_to(folder).as_posix() for each in ("events", "tokens")
    )
    return listed(folder, {tokens: events})


def link_outside(folder: Path) -> Path:
    """A part that is a link to a file outside of the folder."""
    sealed(folder / "inside")
    name = part(folder / "inside", "events")
    name.rename(folder / "private.parquet")
    name.symlink_to(folder / "private.parquet")
    return folder / "inside"


def pipe_as_part(folder: Path) -> Path:
    """A named pipe in place of a part: whoever opens it waits for ever."""
    sealed(folder)
    part(folder, "events").unlink()
    os.mkfifo(part(folder, "events"))
    return folder


SEALED: dict[str, Maker] = {
    each.__name__: each
    for each in (
        rows_of_runs,
        rows_of_tokens,
        long_text,
        long_list,
        wide_dictionary,
        repeated_beginnings,
        lying_footer,
        many_columns,
        deep_schema,
        wide_json,
        names_outside,
        absolute_name,
        name_twice,
        link_outside,
        pipe_as_part,
    )
}
