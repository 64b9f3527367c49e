"""Conversion between sampled tokens, rows of `tokens` and Arrow columns, for both databases.

Both return exactly the numbers that they store: float32, half precision, ids, microseconds.
"""

import struct
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

COLUMNS = (
    "version",
    "turn",
    "step",
    "position",
    "token_id",
    "logprob_f32",
    "logprob_processed_f32",
    "entropy_f16",
    "top_gap_f16",
    "duration_us",
    "top_ids",
    "top_logprobs_f16",
)
"""The columns of `tokens` after `event_key` and `after_us`, in the order of `Packing.row`."""

_POSITION = ("turn", "step", "position", "token_id")
_MEASURES = ("logprob", "logprob_processed", "entropy", "top_gap")
_FLOATS, _FLOAT_BITS = struct.Struct("<ffee"), struct.Struct("<iihh")


class Packing(Protocol):
    """The representation of tokens in one kind of database."""

    placeholder: str
    """How the driver writes a parameter."""

    def row(self, version: int, token: Mapping[str, Any]) -> tuple[Any, ...]:
        """Return the values of `COLUMNS` for the fields of a `TokenSampled`."""

    def token(self, row: Sequence[Any]) -> dict[str, Any]:
        """Return the fields of a `TokenSampled` for the values of `COLUMNS` after `version`.

        Raise struct.error for damaged values.
        """

    def numbers(self, column: str, values: Sequence[Any]) -> pa.Array:
        """Return the values of a column of plain numbers, with the type of `store.arrow.TOKENS`."""

    def top_lists(self, ids: Sequence[Any], logprobs: Sequence[Any]) -> tuple[pa.Array, pa.Array]:
        """Return the columns `top_ids` and `top_logprobs` as lists."""


class SqlitePacking:
    """Floats as integers with the same bits, the top k as bytes."""

    placeholder = "?"

    def row(self, version: int, token: Mapping[str, Any]) -> tuple[Any, ...]:
        ids, logprobs = token["top_ids"], token["top_logprobs"]
        width = max(1, (max(ids, default=0).bit_length() + 7) // 8)
        return (
            version,
            *(token[name] for name in _POSITION),
            *_FLOAT_BITS.unpack(_FLOATS.pack(*(token[name] for name in _MEASURES))),
            token["duration_us"],
            b"".join(each.to_bytes(width, "little") for each in ids) or None,
            struct.pack(f"<{len(logprobs)}e", *logprobs) or None,
        )

    def token(self, row: Sequence[Any]) -> dict[str, Any]:
        *position, logprob, processed, entropy, top_gap, duration_us, ids, logprobs = row
        floats = _FLOATS.unpack(_FLOAT_BITS.pack(logprob, processed, entropy, top_gap))
        count, packed = len(logprobs or b"") // 2, ids or b""
        width = _id_width(packed, count)
        starts = range(0, len(packed), width)
        return {
            **dict(zip(_POSITION, position, strict=True)),
            **dict(zip(_MEASURES, floats, strict=True)),
            "duration_us": duration_us,
            "top_ids": tuple(int.from_bytes(packed[at : at + width], "little") for at in starts),
            "top_logprobs": struct.unpack(f"<{count}e", logprobs or b""),
        }

    def numbers(self, column: str, values: Sequence[Any]) -> pa.Array:
        if column.endswith("_f32"):
            return pa.array(_exact(values, np.int32).view(np.float32))
        if column.endswith("_f16"):
            return pa.array(_exact(values, np.int16).view(np.float16).astype(np.float32))
        return _integers(column, values)

    def top_lists(self, ids: Sequence[Any], logprobs: Sequence[Any]) -> tuple[pa.Array, pa.Array]:
        packed = [each or b"" for each in ids]
        halves = np.frombuffer(b"".join(each or b"" for each in logprobs), np.float16)
        counts = np.array([len(each or b"") // 2 for each in logprobs], np.int64)
        pairs = zip(packed, counts.tolist(), strict=True)
        widths = np.array([_id_width(each, count) for each, count in pairs], np.int64)
        flat = np.zeros(int(counts.sum()), np.int32)
        of_id = np.repeat(widths, counts)
        for width in np.unique(of_id).tolist():
            joined = b"".join(
                each for each, own in zip(packed, widths, strict=True) if own == width
            )
            padded = np.zeros((len(joined) // width, 4), np.uint8)
            padded[:, :width] = np.frombuffer(joined, np.uint8).reshape(-1, width)
            flat[of_id == width] = padded.view("<i4")[:, 0]
        return _lists(flat, counts), _lists(halves.astype(np.float32), counts)


def _id_width(packed: bytes, count: int) -> int:
    """Return the bytes of one of `count` ids. Raise struct.error if they do not fit."""
    width, rest = divmod(len(packed), count or 1)
    if rest or width > 4 or (width > 0) != (count > 0):
        raise struct.error(f"{len(packed)} bytes do not hold {count} ids")
    return max(width, 1)


class PostgresPacking:
    """Floats as `real`, which psycopg reads as the shortest decimal; the top k as arrays."""

    placeholder = "%s"

    def row(self, version: int, token: Mapping[str, Any]) -> tuple[Any, ...]:
        return (
            version,
            *(token[name] for name in _POSITION),
            *(token[name] for name in _MEASURES),
            token["duration_us"],
            list(token["top_ids"]) or None,
            list(token["top_logprobs"]) or None,
        )

    def token(self, row: Sequence[Any]) -> dict[str, Any]:
        *position, logprob, processed, entropy, top_gap, duration_us, ids, logprobs = row
        floats = _float32(logprob, processed, entropy, top_gap)
        return {
            **dict(zip(_POSITION, position, strict=True)),
            **dict(zip(_MEASURES, floats, strict=True)),
            "duration_us": duration_us,
            "top_ids": tuple(ids or ()),
            "top_logprobs": _float32(*(logprobs or ())),
        }

    def numbers(self, column: str, values: Sequence[Any]) -> pa.Array:
        if column.endswith(("_f32", "_f16")):
            return pa.array(np.array(values, np.float32))
        return _integers(column, values)

    def top_lists(self, ids: Sequence[Any], logprobs: Sequence[Any]) -> tuple[pa.Array, pa.Array]:
        counts = np.array([len(each or ()) for each in ids], np.int64)
        flat_ids = _exact([one for each in ids for one in each or ()], np.int32)
        flat_logprobs = np.array([one for each in logprobs for one in each or ()], np.float32)
        return _lists(flat_ids, counts), _lists(flat_logprobs, counts)


def _float32(*numbers: float) -> tuple[float, ...]:
    form = f"<{len(numbers)}f"
    return struct.unpack(form, struct.pack(form, *numbers))


def _integers(column: str, values: Sequence[Any]) -> pa.Array:
    wide = column.endswith("_us")
    return pa.array(_exact(values, np.int64 if wide else np.int32))


def _exact(values: Sequence[Any], kind: Any) -> Any:
    """Return an array of integers. Raise OverflowError for one that the type cannot hold.

    numpy 1 would only warn.
    """
    wide = np.array(values, np.int64)
    narrow = wide.astype(kind)
    if not np.array_equal(wide, narrow):
        raise OverflowError(f"a number is too large for {narrow.dtype}")
    return narrow


def _lists(values: Any, counts: Any) -> pa.Array:
    offsets = np.zeros(len(counts) + 1, np.int32)
    np.cumsum(counts, out=offsets[1:])
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values))
