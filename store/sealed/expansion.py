"""Check how much memory the content of a Parquet file takes, before pyarrow allocates it.

A kilobyte can claim 10^9 rows of zeros, or a page of 2 GB. The footer's claims are not enough,
because pyarrow allocates a page by the size in the page's own header: every header is read here.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from tokentape.recorder.limits import (
    TEXT_SHARE,
    VALUE_BYTES,
    TooLargeError,
    expanded_bytes_max,
    oversize,
)
from tokentape.recorder.regular_file import open_regular
from tokentape.store.sealed.thrift import ThriftError, ThriftReader

_MAGIC = b"PAR1"
_ELEMENT_BYTES = 1024
"""What pyarrow holds for one element of a footer's lists, at most."""
_SCHEMA_ELEMENTS_MAX = 1_000

# The numbers of the fields of Parquet's structs: https://github.com/apache/parquet-format.
_SCHEMA, _ROW_GROUPS = 2, 4
_COLUMNS, _ROWS = 1, 3
_COLUMN_METADATA = 3
_TYPE, _NAME, _VALUES, _COMPRESSED_BYTES = 1, 3, 5, 7
_DATA_OFFSET, _DICTIONARY_OFFSET = 9, 11
_PAGE_TYPE, _PAGE_UNCOMPRESSED, _PAGE_COMPRESSED = 1, 2, 3
_PAGE_ENCODINGS = {5: 2, 7: 2, 8: 4}
"""The headers of a kind of page, whose first field is its number of values, and the field of their
encoding."""

_BYTE_ARRAY = 6
_TYPES = (0, 1, 2, 4, 5, _BYTE_ARRAY)
"""All but texts of one length, and times of 96 bits: no tokentape writes those."""
_DICTIONARY_PAGE = 2
_DELTA_BYTE_ARRAY = 7
"""Each value repeats the beginning of the one before it: no page header says how much."""
_HEADER_BYTES = (256, 64 * 1024)
"""How much is read of a page to find its header: most have 30 bytes."""
_DICTIONARY_BYTES_MAX = 4096
"""A dictionary of `kind` has a few hundred bytes, and any row may repeat the longest entry."""
_BATCH_BYTES = 16 * 1024**2
_BATCH_ROWS = 8192

_Struct = dict[int, Any]


class ExpansionError(TooLargeError):
    """A file claims more memory than the limit allows; the message is the end of a sentence."""


@dataclass(frozen=True, slots=True)
class Expansion:
    """What the content of a file takes in memory."""

    expanded_bytes: int
    rows: int

    @property
    def batch_rows(self) -> int:
        """How many rows to read at once."""
        row_bytes = self.expanded_bytes // max(1, self.rows) + 1
        return max(1, min(_BATCH_ROWS, _BATCH_BYTES // row_bytes))


def text_bytes_max(stored_bytes: int) -> int:
    """Return how long one text may be in a file that takes so many bytes on disk."""
    return expanded_bytes_max(stored_bytes) // TEXT_SHARE


def read_footer(source: Any) -> pq.FileMetaData:
    """Return the metadata of a Parquet file. Raise ExpansionError if it would take too much.

    `source` is a path, a buffer of pyarrow or an open file. Raise OSError, ValueError or an error
    of pyarrow for a damaged file.
    """
    with _opened(source) as file:
        _footer(file, _size(file))
        file.seek(0)
        return pq.read_metadata(file)


def measure(source: Any, stored_bytes: int | None = None) -> Expansion:
    """Return what the content of a Parquet file takes. Raise ExpansionError if it is too much.

    Numbers count as the Python objects that they become, texts by their bytes. `stored_bytes` is
    the size to which the file itself was compressed, if it was. A file that is not Parquet takes
    nothing: pyarrow says what is wrong with it.
    """
    with _opened(source) as file:
        file_bytes = _size(file)
        limit = expanded_bytes_max(file_bytes if stored_bytes is None else stored_bytes)
        rows = expanded = 0
        for number, group in enumerate(_list(_footer(file, file_bytes), _ROW_GROUPS)):
            group_rows = _number(group, _ROWS, f"row group {number}")
            rows += group_rows
            expanded += VALUE_BYTES * group_rows
            _check(f"row group {number}", expanded, limit)
            for column in _list(group, _COLUMNS):
                chunk = column.get(_COLUMN_METADATA)
                if not isinstance(chunk, dict):
                    raise ExpansionError(f"row group {number} has a column without metadata")
                expanded += _chunk_bytes(file, chunk, file_bytes, limit)
                _check(f"column {_name(chunk)}", expanded, limit)
    return Expansion(expanded, rows)


@contextmanager
def _opened(source: Any) -> Iterator[BinaryIO]:
    if isinstance(source, str | Path):
        with open_regular(source) as file:
            yield file
    elif isinstance(source, pa.Buffer):
        yield pa.BufferReader(source)
    else:
        yield source


def _size(file: BinaryIO) -> int:
    return file.seek(0, 2) or file.tell()


def _footer(file: BinaryIO, file_bytes: int) -> _Struct:
    """Return the footer as a struct; empty for a file that is not Parquet."""
    file.seek(max(0, file_bytes - 8))
    tail = file.read(8)
    footer_bytes = int.from_bytes(tail[:4], "little")
    if tail[4:] != _MAGIC or not 0 < footer_bytes <= file_bytes - 12:
        return {}
    file.seek(file_bytes - 8 - footer_bytes)
    elements_max = expanded_bytes_max(file_bytes) // _ELEMENT_BYTES
    try:
        fields = ThriftReader(file.read(footer_bytes), elements_max).struct()
    except ThriftError as error:
        raise ExpansionError(f"its footer cannot be read: {error}") from None
    if not 0 < len(_list(fields, _SCHEMA)) <= _SCHEMA_ELEMENTS_MAX:
        raise ExpansionError("its footer has no schema, or one of too many columns")
    return fields


def _chunk_bytes(file: BinaryIO, chunk: _Struct, file_bytes: int, limit: int) -> int:
    """Return what a column of a row group takes, by the headers of its pages."""
    name = _name(chunk)
    if chunk.get(_TYPE) not in _TYPES:
        raise ExpansionError(f"no tokentape writes the type of its column {name}")
    start = _number(chunk, _DATA_OFFSET, name)
    if _DICTIONARY_OFFSET in chunk:
        start = min(start, _number(chunk, _DICTIONARY_OFFSET, name) or start)
    end = start + _number(chunk, _COMPRESSED_BYTES, name)
    if end > file_bytes:
        raise ExpansionError(f"its column {name} is outside of the file")
    page_bytes = dictionary_bytes = values = 0
    for is_dictionary, uncompressed, count in _pages(file, start, end, name):
        page_bytes += uncompressed
        if is_dictionary:
            dictionary_bytes = max(dictionary_bytes, uncompressed)
        else:
            values += count
        _check(f"column {name}", page_bytes + VALUE_BYTES * values, limit)
    values = max(values, _number(chunk, _VALUES, name))
    if chunk[_TYPE] == _BYTE_ARRAY and dictionary_bytes > _DICTIONARY_BYTES_MAX:
        raise ExpansionError(f"its column {name} has a dictionary of {dictionary_bytes:,} bytes")
    # A dictionary of `kind` is never unpacked for all rows at once.
    repeated = 0 if name == "kind" else dictionary_bytes
    return page_bytes + values * (VALUE_BYTES + repeated)


def _pages(file: BinaryIO, start: int, end: int, name: str) -> Iterator[tuple[bool, int, int]]:
    """Yield whether a page is a dictionary, its uncompressed bytes and its number of values."""
    while start < end:
        header, header_bytes = _page_header(file, start, name)
        counts = []
        for field, encoding in _PAGE_ENCODINGS.items():
            inner = header.get(field)
            if isinstance(inner, dict):
                counts.append(_number(inner, 1, name))
                if inner.get(encoding) == _DELTA_BYTE_ARRAY:
                    raise ExpansionError(f"no tokentape writes the encoding of its column {name}")
        is_dictionary = header.get(_PAGE_TYPE) == _DICTIONARY_PAGE
        yield is_dictionary, _number(header, _PAGE_UNCOMPRESSED, name), max([0, *counts])
        start += header_bytes + _number(header, _PAGE_COMPRESSED, name)


def _page_header(file: BinaryIO, start: int, name: str) -> tuple[_Struct, int]:
    fault: Exception = ThriftError("it is cut off")
    for size in _HEADER_BYTES:
        file.seek(start)
        reader = ThriftReader(file.read(size), size)
        try:
            return reader.struct(), reader.position
        except ThriftError as error:
            fault = error
    raise ExpansionError(f"a page of its column {name} cannot be read: {fault}")


def _list(struct: _Struct, field: int) -> list[_Struct]:
    found = struct.get(field)
    if not isinstance(found, list) or not all(isinstance(each, dict) for each in found):
        if found is None:
            return []
        raise ExpansionError(f"its footer has another value in field {field}")
    return found


def _number(struct: _Struct, field: int, name: str) -> int:
    found = struct.get(field)
    if not isinstance(found, int) or found < 0:
        raise ExpansionError(f"its {name} has no size in field {field}")
    return found


def _name(chunk: _Struct) -> str:
    """Return the name of a column, as `top_ids.list.element`."""
    found = chunk.get(_NAME)
    parts = found if isinstance(found, list) else []
    return ".".join(each.decode(errors="replace") for each in parts if isinstance(each, bytes))


def _check(what: str, claimed_bytes: int, limit_bytes: int) -> None:
    fault = oversize(what, claimed_bytes, limit_bytes)
    if fault:
        raise ExpansionError(fault)
