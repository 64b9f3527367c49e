"""The numbers of all tokens of a run as packed columns."""

import base64
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt

from tokentape.recorder.events import TokenSampled
from tokentape.replay.view.filter_settings import REMOVERS
from tokentape.replay.view.removed_candidates import SampledStretch, judge_candidates
from tokentape.replay.view.viewed_turns import ViewedRound, ViewedTurn

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
    def of(cls, tokens: Sequence[TokenSampled], *, redacted: bool) -> "TokenColumns":
        """Return the columns of tokens; a redacted run has -1 for every id."""
        count = len(tokens)

        def column(name: str, dtype: str) -> Column:
            return np.fromiter((getattr(each, name) for each in tokens), dtype, count)

        top = max((len(each.top_ids) for each in tokens), default=0)
        durations = column("duration_us", "<i8")
        fits = not count or int(durations.max()) < 2**31
        ids = column("token_id", "<i4")
        return cls(
            {
                "turn": column("turn", "<i4"),
                "step": column("step", "<i4"),
                "position": column("position", "<i4"),
                "token_id": np.full_like(ids, -1) if redacted else ids,
                "logprob": column("logprob", "<f4"),
                "logprob_processed": column("logprob_processed", "<f4"),
                "entropy": column("entropy", "<f4"),
                "margin": column("top_gap", "<f4"),
                "duration_us": durations.astype("<i4" if fits else "<f8"),
                "forced": np.zeros(count, "<u1"),
                "top_ids": _rows([each.top_ids for each in tokens], top, "<i4", -1),
                "top_logprobs": _rows([each.top_logprobs for each in tokens], top, "<f4", np.nan),
                "top_processed": np.full((count, top), np.nan, "<f4"),
                "top_removed": np.zeros((count, top), "<u1"),
            },
            top,
        )

    def packed(self, first: int = 0) -> dict[str, Any]:
        """Return the columns from the row `first` on, as the document has them."""
        return {
            "first": first,
            "count": max(0, len(self) - first),
            "top": self.top,
            "removers": list(REMOVERS),
            "columns": {name: _packed(each[first:]) for name, each in self.columns.items()},
        }


def columns_of(turns: Sequence[ViewedTurn], *, redacted: bool, dtype: str) -> TokenColumns:
    """Return the columns of all tokens of some turns, in order; `dtype` is that of the model."""
    rounds = [each for turn in turns for each in turn.rounds]
    tokens = [token for each in rounds for token in each.turn.tokens]
    columns = TokenColumns.of(tokens, redacted=redacted)
    for each in rounds:
        for step in each.turn.forced_steps:
            columns.columns["forced"][each.first_token + step - each.turn.first_step] = 1
    if columns.top:
        judge_candidates(columns.columns, list(_stretches(rounds)), dtype=dtype)
    return columns


def _stretches(rounds: Sequence[ViewedRound]) -> Iterator[SampledStretch]:
    for each in rounds:
        row = each.first_token
        for piece in each.pieces:
            yield SampledStretch(piece, row)
            row += len(piece.tokens)


def _rows(lists: Sequence[Sequence[Any]], width: int, dtype: str, missing: float) -> Column:
    """Return sequences as the rows of an array; shorter ones end with the value for missing."""
    lengths = np.fromiter(map(len, lists), np.int64, len(lists))
    values = np.fromiter(chain.from_iterable(lists), dtype, int(lengths.sum()))
    if len(values) == len(lists) * width:
        return values.reshape(len(lists), width)
    rows = np.full((len(lists), width), missing, dtype)
    rows[np.arange(width) < lengths[:, None]] = values
    return rows


def _packed(column: Column) -> dict[str, Any]:
    return {
        "dtype": column.dtype.str[1:],
        "width": column.shape[1] if column.ndim == 2 else 1,
        "data": base64.b64encode(np.ascontiguousarray(column).tobytes()).decode(),
    }
