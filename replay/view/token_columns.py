"""The numbers of all tokens of a run as packed columns."""

import base64
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tokentape.recorder.events import RunStarted, TokenSampled
from tokentape.replay.view.filter_settings import REMOVERS
from tokentape.replay.view.removed_candidates import SampledStretch, judge_candidates
from tokentape.replay.view.viewed_turns import ViewedRound, ViewedTurn

_NUMBERS = {
    "turn": ("turn", "<i4"),
    "step": ("step", "<i4"),
    "position": ("position", "<i4"),
    "token_id": ("token_id", "<i4"),
    "logprob": ("logprob", "<f4"),
    "logprob_processed": ("logprob_processed", "<f4"),
    "entropy": ("entropy", "<f4"),
    "top_gap": ("top_gap", "<f4"),
    "duration_us": ("duration_us", "<i8"),
}
"""The fields of `TokenSampled` by the names of their columns, and their types."""
_TOPS = ("top_ids", "top_logprobs")

Column = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class TokenColumns:
    """One row a token, in the order of the document; columns of the top k have k columns."""

    columns: dict[str, Column]
    top: int
    """How many of the likeliest tokens a row has room for."""

    def __len__(self) -> int:
        return len(self.columns["token_id"])

    @classmethod
    def of(cls, tokens: Sequence[TokenSampled]) -> "TokenColumns":
        """Return the columns of tokens."""
        count = len(tokens)
        top = max((len(each.top_ids) for each in tokens), default=0)
        numbers: dict[str, Column] = {
            name: np.fromiter((getattr(each, field) for each in tokens), dtype, count)
            for name, (field, dtype) in _NUMBERS.items()
        }
        ids, logprobs = ([getattr(each, name) for each in tokens] for name in _TOPS)
        numbers["top_ids"] = _rows(ids, top, "<i4", -1)
        numbers["top_logprobs"] = _rows(logprobs, top, "<f4", np.nan)
        return cls(_completed(numbers), top)

    @classmethod
    def of_table(cls, table: pa.Table) -> "TokenColumns":
        """Return the columns of a table as `tokentape.store.arrow.TOKENS` has them."""
        numbers: dict[str, Column] = {
            name: table[field].to_numpy().astype(dtype) for name, (field, dtype) in _NUMBERS.items()
        }
        top = max(pc.max(pc.list_value_length(table["top_ids"])).as_py() or 0, 0)
        numbers["top_ids"] = _list_rows(table["top_ids"], top, "<i4", -1)
        numbers["top_logprobs"] = _list_rows(table["top_logprobs"], top, "<f4", np.nan)
        return cls(_completed(numbers), top)

    def ids(self) -> list[int]:
        """Return the ids of the tokens and of their candidates, each once, in ascending order."""
        found = [self.columns["token_id"], self.columns["top_ids"].ravel()]
        return [int(each) for each in np.unique(np.concatenate(found))]

    def packed(self, first: int = 0) -> dict[str, Any]:
        """Return the columns from the row `first` on, as the document has them."""
        return {
            "first": first,
            "count": max(0, len(self) - first),
            "top": self.top,
            "removers": list(REMOVERS),
            "columns": {name: _packed(each[first:]) for name, each in self.columns.items()},
        }


def columns_of(
    turns: Sequence[ViewedTurn], started: RunStarted, *, table: pa.Table | None = None
) -> TokenColumns:
    """Return the columns of all tokens of some turns, in order.

    `table` has their numbers if the tokens were read as columns. In a redacted run every id is -1.
    """
    rounds = [each for turn in turns for each in turn.rounds]
    if table is None:
        columns = TokenColumns.of([token for each in rounds for token in each.turn.tokens])
    else:
        columns = TokenColumns.of_table(table)
    if started.redacted:
        columns.columns["token_id"][:] = -1
    for each in rounds:
        for step in each.turn.forced_steps:
            columns.columns["forced"][each.first_token + step - each.turn.first_step] = 1
    if columns.top:
        judge_candidates(columns.columns, list(_stretches(rounds)), dtype=started.dtype)
    return columns


def _stretches(rounds: Sequence[ViewedRound]) -> Iterator[SampledStretch]:
    for each in rounds:
        row = each.first_token
        for piece in each.pieces:
            yield SampledStretch(piece, row)
            row += len(piece.tokens)


def _completed(numbers: dict[str, Column]) -> dict[str, Column]:
    """Return all columns in the order of the document, with those that are computed still empty."""
    count, top = numbers["top_ids"].shape
    durations = numbers["duration_us"]
    fits = not count or int(durations.max()) < 2**31
    numbers["duration_us"] = durations.astype("<i4" if fits else "<f8")
    return {name: numbers[name] for name in (*_NUMBERS,)} | {
        "forced": np.zeros(count, "<u1"),
        "top_ids": numbers["top_ids"],
        "top_logprobs": numbers["top_logprobs"],
        "top_processed": np.full((count, top), np.nan, "<f4"),
        "top_removed": np.zeros((count, top), "<u1"),
    }


def _list_rows(column: pa.ChunkedArray, width: int, dtype: str, missing: float) -> Column:
    """Return lists as the rows of an array; shorter ones end with the value for missing."""
    lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy()
    return _filled(lengths, pc.list_flatten(column).to_numpy().astype(dtype), width, missing)


def _rows(lists: Sequence[Sequence[Any]], width: int, dtype: str, missing: float) -> Column:
    lengths = np.fromiter(map(len, lists), np.int64, len(lists))
    values = np.fromiter(chain.from_iterable(lists), dtype, int(lengths.sum()))
    return _filled(lengths, values, width, missing)


def _filled(lengths: Column, values: Column, width: int, missing: float) -> Column:
    if len(values) == len(lengths) * width:
        return values.reshape(len(lengths), width)
    rows = np.full((len(lengths), width), missing, values.dtype)
    rows[np.arange(width) < lengths[:, None]] = values
    return rows


def _packed(column: Column) -> dict[str, Any]:
    return {
        "dtype": column.dtype.str[1:],
        "width": column.shape[1] if column.ndim == 2 else 1,
        "data": base64.b64encode(np.ascontiguousarray(column).tobytes()).decode(),
    }
