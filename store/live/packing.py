"""A sampled token as a row of `tokens`, and rows as Arrow columns: for SQLite and for PostgreSQL.

Both give back exactly what they were given: float32 and half-precision numbers, ids, microseconds.
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
"""The columns of `tokens` behind `event_key` and `after_us`, in the order of `Packing.row`."""

_PLACE = ("turn", "step", "position", "token_id")
_MEASURES = ("logprob", "logprob_processed", "entropy", "top_gap")
_FLOATS, _FLOAT_BITS = struct.Struct("<ffee"), struct.Struct("<iihh")


class Packing(Protocol):
    """How one kind of database keeps a token. `mark` is how it writes a parameter."""

    mark: str

    def row(self, version: int, token: Mapping[str, Any]) -> tuple[Any, ...]:
        """The fields of a `TokenSampled` as the values of `COLUMNS`."""

    def token(self, row: Sequence[Any]) -> dict[str, Any]:
        """The fields of a `TokenSampled` from the values of `COLUMNS` behind `version`.

        Raises struct.error for values that no token has.
        """

    def numbers(self, column: str, values: Sequence[Any]) -> pa.Array:
        """Values of a column, but of the candidates, as `tokentape.store.arrow.TOKENS` has them."""

    def candidates(self, ids: Sequence[Any], logprobs: Sequence[Any]) -> tuple[pa.Array, pa.Array]:
        """Both columns of candidates as lists."""


class SqlitePacking:
    """Floats as the integers that their bits spell, candidates as bytes."""

    mark = "?"

    def row(self, version: int, token: Mapping[str, Any]) -> tuple[Any, ...]:
        ids, logprobs = token["top_ids"], token["top_logprobs"]
        width = max(1, (max(ids, default=0).bit_length() + 7) // 8)
        return (
            version,
            *(token[name] for name in _PLACE),
            *_FLOAT_BITS.unpack(_FLOATS.pack(*(token[name] for name in _MEASURES))),
            token["duration_us"],
            b"".join(each.to_bytes(width, "little") for each in ids) or None,
            struct.pack(f"<{len(logprobs)}e", *logprobs) or None,
        )

    def token(self, row: Sequence[Any]) -> dict[str, Any]:
        *place, logprob, processed, entropy, top_gap, duration_us, ids, logprobs = row
        floats = _FLOATS.unpack(_FLOAT_BITS.pack(logprob, processed, entropy, top_gap))
        count, packed = len(logprobs or b"") // 2, ids or b""
        width = _id_width(packed, count)
        starts = range(0, len(packed), width)
        return {
            **dict(zip(_PLACE, place, strict=True)),
            **dict(zip(_MEASURES, floats, strict=True)),
            "duration_us": duration_us,
            "top_ids": tuple(int.from_bytes(packed[at : at + width], "little") for at in starts),
            "top_logprobs": struct.unpack(f"<{count}e", logprobs or b""),
        }

    def numbers(self, column: str, values: Sequence[Any]) -> pa.Array:
        if column.endswith("_f32"):
            return pa.array(np.array(values, np.int32).view(np.float32))
        if column.endswith("_f16"):
            return pa.array(np.array(values, np.int16).view(np.float16).astype(np.float32))
        return _integers(column, values)

    def candidates(self, ids: Sequence[Any], logprobs: Sequence[Any]) -> tuple[pa.Array, pa.Array]:
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
    """How many bytes each of so many ids has."""
    width, rest = divmod(len(packed), count or 1)
    if rest or width > 4 or (width > 0) != (count > 0):
        raise struct.error(f"{len(packed)} bytes are not the ids of {count} candidates")
    return max(width, 1)


class PostgresPacking:
    """`real` for floats, which psycopg reads as the shortest decimal; arrays for candidates."""

    mark = "%s"

    def row(self, version: int, token: Mapping[str, Any]) -> tuple[Any, ...]:
        return (
            version,
            *(token[name] for name in _PLACE),
            *(token[name] for name in _MEASURES),
            token["duration_us"],
            list(token["top_ids"]) or None,
            list(token["top_logprobs"]) or None,
        )

    def token(self, row: Sequence[Any]) -> dict[str, Any]:
        *place, logprob, processed, entropy, top_gap, duration_us, ids, logprobs = row
        floats = _float32(logprob, processed, entropy, top_gap)
        return {
            **dict(zip(_PLACE, place, strict=True)),
            **dict(zip(_MEASURES, floats, strict=True)),
            "duration_us": duration_us,
            "top_ids": tuple(ids or ()),
            "top_logprobs": _float32(*(logprobs or ())),
        }

    def numbers(self, column: str, values: Sequence[Any]) -> pa.Array:
        if column.endswith(("_f32", "_f16")):
            return pa.array(np.array(values, np.float32))
        return _integers(column, values)

    def candidates(self, ids: Sequence[Any], logprobs: Sequence[Any]) -> tuple[pa.Array, pa.Array]:
        counts = np.array([len(each or ()) for each in ids], np.int64)
        flat_ids = np.array([one for each in ids for one in each or ()], np.int32)
        flat_logprobs = np.array([one for each in logprobs for one in each or ()], np.float32)
        return _lists(flat_ids, counts), _lists(flat_logprobs, counts)


def _float32(*numbers: float) -> tuple[float, ...]:
    form = f"<{len(numbers)}f"
    return struct.unpack(form, struct.pack(form, *numbers))


def _integers(column: str, values: Sequence[Any]) -> pa.Array:
    wide = column.endswith("_us")
    return pa.array(np.array(values, np.int64 if wide else np.int32))


def _lists(values: Any, counts: Any) -> pa.Array:
    offsets = np.zeros(len(counts) + 1, np.int32)
    np.cumsum(counts, out=offsets[1:])
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values))
