"""Rows of the Parquet files of sealed runs, with the name of a file that is damaged.

Filters do not go to pyarrow's dataset, which looks at statistics, and its metadata of a column is
not looked at: where a footer is damaged, both end the process in C++ code (seen with pyarrow 26).
To read a column raises an error in the same files.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs
import pyarrow.parquet as pq

from tokentape.recorder import Record
from tokentape.store.errors import StoreError
from tokentape.store.sealed.expansion import measure, read_footer, text_bytes_max
from tokentape.store.sealed.parquet import METADATA_PREFIX, SCHEMAS
from tokentape.store.sealed.records import check_texts
from tokentape.store.sealed.run_file import UNREADABLE, cannot_read, reading
from tokentape.store.sealed.sealed_files import SealedFiles

_LOCAL = pyarrow.fs.LocalFileSystem()
_FILTERED = ("seq", "turn", "kind", "sha256")
"""The columns that filters name."""
_EVENTS = f"{METADATA_PREFIX}events".encode()


def scan(
    files: SealedFiles,
    table: str,
    parts: Mapping[str, Sequence[str]],
    columns: Sequence[str],
    filter_: pc.Expression | None = None,
    after_seq: int = -1,
) -> pa.Table:
    """Return rows of a table from the parts of runs, by run id, ordered by run and part.

    Row groups without a row that the filter selects are not read, but for the columns that filters
    name, and neither are parts whose events come up to `after_seq`, which the filter excludes.
    Raise StoreError with the name of a file that is damaged.
    """
    # It imports pandas, which `iterate_records` does not need.
    import pyarrow.dataset as ds

    schema = SCHEMAS[table]
    parquet = ds.ParquetFileFormat(
        dictionary_columns=["kind", "status", "model", "replay", "verdict"],
        default_fragment_scan_options=ds.ParquetFragmentScanOptions(
            page_checksum_verification=True
        ),
    )
    names = [name for each in parts.values() for name in each]
    source_of = files.sources(names)
    fragments = []
    for run_id, name in ((run_id, name) for run_id, each in parts.items() for name in each):
        source = source_of(name)
        groups = _row_groups(files, name, source, filter_, after_seq)
        if groups != []:
            fragments.append(
                parquet.make_fragment(
                    source,
                    filesystem=_LOCAL if isinstance(source, str) else None,
                    partition_expression=pc.field("run_id") == run_id,
                    row_groups=groups,
                )
            )
    if not fragments:
        return schema.empty_table().select(list(columns))
    dataset = ds.FileSystemDataset(fragments, schema, parquet)
    needed = () if filter_ is None else _filtered(schema.names)
    try:
        rows = dataset.to_table(columns=list(dict.fromkeys([*columns, *needed])))
        check_texts(rows, max(text_bytes_max(files.stored_bytes(name)) for name in names))
        return rows if filter_ is None else rows.filter(filter_).select(list(columns))
    except UNREADABLE as error:
        raise _blamed(files, parts, error) from error


def iterate_records(
    files: SealedFiles,
    names: Iterable[str],
    records: Callable[[pa.RecordBatch], Iterator[Record]],
) -> Iterator[Record]:
    """Yield the records of files, in order. Raise StoreError with the name of a damaged one."""
    names = list(names)
    source_of = files.sources(names)
    for name in names:
        with reading(f"{files.where}/{name}"):
            source = source_of(name)
            found = measure(source, files.stored_bytes(name))
            file = pq.ParquetFile(source)
            # pyarrow 18 cannot iterate over a file without rows.
            if file.metadata.num_row_groups:
                for batch in file.iter_batches(batch_size=found.batch_rows):
                    check_texts(batch, text_bytes_max(files.stored_bytes(name)))
                    yield from records(batch)


def _row_groups(
    files: SealedFiles, name: str, source: Any, filter_: pc.Expression | None, after_seq: int
) -> list[int] | None:
    """Return the row groups of a file with a row that the filter selects; None for all."""
    with reading(f"{files.where}/{name}"):
        metadata = read_footer(source).metadata or {}
        if filter_ is not None and int(metadata.get(_EVENTS, after_seq + 2)) <= after_seq + 1:
            return []
        measure(source, files.stored_bytes(name))
        if filter_ is None:
            return None
        file = pq.ParquetFile(source, page_checksum_verification=True)
        columns = _filtered(file.schema_arrow.names)
        return [
            number
            for number in range(file.metadata.num_row_groups)
            if file.read_row_group(number, columns=columns).filter(filter_).num_rows
        ]


def _filtered(names: Iterable[str]) -> list[str]:
    return [name for name in names if name in _FILTERED]


def _blamed(
    files: SealedFiles, parts: Mapping[str, Sequence[str]], error: BaseException
) -> StoreError:
    """Return the error with the name of the damaged file."""
    for name in (name for names in parts.values() for name in names):
        try:
            pq.ParquetFile(files.source(name), page_checksum_verification=True).read()
        except UNREADABLE as found:
            return cannot_read(f"{files.where}/{name}", found)
    return cannot_read(files.where, error)
