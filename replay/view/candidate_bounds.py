"""Bounds on the weights of the likeliest tokens, and what each filter did to them.

The weight of a token is exp(logprob / temperature): its probability after the temperature, up to a
factor that is the same for all tokens of a row. Recorded top log-probabilities have half precision,
so weights have bounds. `generate` applies filters in a fixed order; each removes tokens below a
threshold, so that the remaining tokens are the first ones in the order of their scores.

Some candidates have a lowered score: a repetition penalty divides positive logits and multiplies
negative ones, and the logits are not recorded. Such a token weighs between nothing and its raw
weight.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

_HALF = 2.0**-11
_SMALLEST_HALF = 2.0**-25
_FLOAT = 2.0**-21
_NEVER = -1e30
"""The log-probability of a candidate that a row does not have."""
_SUMMED = 1e-5
"""The relative error of a sum of many float32 probabilities."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """Candidates of sampled tokens under the same settings: arrays of shape (rows, top k).

    Log-probabilities are divided by the temperature, less that of the first candidate of the row.
    """

    recorded: Floats
    """As they were recorded, for ties."""
    logprobs: Floats
    errors: Floats
    """The greatest errors of these."""
    lowered: Flags
    """Whether the score of the candidate was lowered, or set to minus infinity."""
    is_sampled: Flags
    """Whether the candidate is the sampled token."""
    sampled: Floats
    """The sampled token's log-probability, of shape (rows,)."""
    sampled_errors: Floats
    processed: Floats
    """Its log-probability after the processors, of shape (rows,)."""
    sampled_lowered: Flags
    """Whether its score was lowered, of shape (rows,)."""
    everything: Floats
    """The greatest weight of all tokens of the vocabulary, of shape (rows, 1): known at a
    temperature of 1, else infinite."""
    has_ties: bool
    """Whether logits are so coarse that tokens may tie with the last candidate."""

    @classmethod
    def of(
        cls,
        numbers: Mapping[str, npt.NDArray[Any]],
        *,
        temperature: float,
        lowered: Flags,
        sampled_lowered: Flags,
        has_ties: bool,
    ) -> "Rows":
        """Return the candidates of rows of token columns; `lowered` is of the same shape."""
        top = numbers["top_logprobs"].astype(np.float64)
        recorded = np.where(np.isfinite(top), top, _NEVER)
        is_sampled = numbers["top_ids"] == numbers["token_id"][:, None]
        sampled = numbers["logprob"].astype(np.float64)
        known = np.where(is_sampled, sampled[:, None], recorded)
        errors = _rounding(known, temperature)
        errors += np.where(is_sampled, 0.0, np.abs(known) * _HALF + _SMALLEST_HALF) / temperature
        first = known[:, :1] / temperature
        is_plain = temperature == 1
        return cls(
            recorded=recorded,
            logprobs=known / temperature - first,
            errors=errors,
            lowered=lowered,
            is_sampled=is_sampled,
            sampled=sampled / temperature - first[:, 0],
            sampled_errors=_rounding(sampled, temperature),
            processed=numbers["logprob_processed"].astype(np.float64),
            sampled_lowered=sampled_lowered,
            everything=np.exp(-first) * (1 + _SUMMED) if is_plain else np.full_like(first, np.inf),
            has_ties=has_ties,
        )

    @property
    def high(self) -> Floats:
        """The greatest weights."""
        return np.exp(self.logprobs + self.errors)

    @property
    def low(self) -> Floats:
        """The smallest weights."""
        return np.where(self.lowered, 0.0, np.exp(self.logprobs - self.errors))


def _rounding(logprobs: Floats, temperature: float) -> Floats:
    """Return the error of float32 logits, softmax and logarithm."""
    found: Floats = (_SUMMED + np.abs(logprobs) * _FLOAT) / temperature + _SUMMED
    return found


@dataclass(frozen=True, slots=True)
class Bounds:
    """What the candidates of some rows weigh together, and what all remaining tokens weigh."""

    rows: Rows
    before_low: Floats
    """The least weight of the tokens with a greater score than the candidate."""
    before_high: Floats
    """The greatest weight of other tokens whose score may be as great."""
    remaining_low: Floats
    """The least weight of all tokens that remain in the end, of shape (rows, 1)."""
    remaining_high: Floats
    greater: Any
    """How many tokens have a greater score for sure."""
    is_first: Flags
    """Whether no other token has as great a score."""
    sum_low: Floats
    """The least weight of the candidates up to each one."""
    sum_high: Floats

    @classmethod
    def of(cls, rows: Rows) -> "Bounds":
        """Return the bounds of some rows."""
        count = rows.logprobs.shape[1]
        first, last = _ties(rows.recorded)
        sum_low, sum_high = np.cumsum(rows.low, axis=1), np.cumsum(rows.high, axis=1)
        padded = np.pad(sum_low, ((0, 0), (1, 0)))
        unlowered = np.pad(np.cumsum(~rows.lowered, axis=1), ((0, 0), (1, 0)))
        kept = np.exp(rows.sampled - rows.processed)
        error = np.expm1(rows.sampled_errors)
        surely = np.where(rows.logprobs - rows.errors > rows.sampled[:, None], rows.low, 0.0)
        low = np.where(rows.sampled_lowered, surely.sum(axis=1), kept * (1 - error))
        before_high = np.take_along_axis(sum_high, last, axis=1) - rows.high
        if rows.has_ties:
            # How many further tokens tie with the last candidate is not recorded.
            before_high = np.where(last == count - 1, np.inf, before_high)
        return cls(
            rows=rows,
            before_low=np.take_along_axis(padded, first, axis=1),
            before_high=before_high,
            remaining_low=low[:, None],
            remaining_high=(kept * (1 + error))[:, None],
            greater=np.take_along_axis(unlowered, first, axis=1),
            is_first=(last == 0) & ~rows.lowered & (count > 1 or not rows.has_ties),
            sum_low=sum_low,
            sum_high=sum_high,
        )

    def total_low(self, top_k: int | None, has_earlier_filter: bool) -> Floats:
        """Return the least weight of all tokens that a top-k filter keeps."""
        if has_earlier_filter:
            return self.remaining_low
        count = self.sum_low.shape[1]
        first: Floats = self.sum_low[:, [min(top_k or count, count) - 1]]
        return np.maximum(first, self.remaining_low)

    def total_high(self, top_k: int | None) -> Floats:
        """Return the greatest weight of all tokens, or of those that a top-k filter keeps."""
        rows, everything = self.rows, self.rows.everything
        count = rows.logprobs.shape[1]
        if top_k is None or rows.has_ties:
            return everything
        if top_k > count:
            rest = rows.high[:, -1:] * (top_k - count)
            most: Floats = np.minimum(self.sum_high[:, -1:] + rest, everything)
            return most
        # Tokens that tie with the last one that is kept are kept, too.
        _, last = _ties(rows.recorded)
        end = last[:, top_k - 1 : top_k]
        found = np.take_along_axis(self.sum_high, end, axis=1)
        is_lowered = rows.lowered[:, :top_k].any(axis=1, keepdims=True)
        within: Floats = np.where(is_lowered, everything, found)
        return within


def _ties(logprobs: Floats) -> tuple[Any, Any]:
    """Return the indices of the first and the last candidate that each one may tie with."""
    count = logprobs.shape[1]
    places = np.broadcast_to(np.arange(count), logprobs.shape)
    differs = np.diff(logprobs, axis=1) != 0
    begins = np.pad(differs, ((0, 0), (1, 0)), constant_values=True)
    ends = np.pad(differs, ((0, 0), (0, 1)), constant_values=True)
    first = np.maximum.accumulate(np.where(begins, places, 0), axis=1)
    last = np.minimum.accumulate(np.where(ends, places, count - 1)[:, ::-1], axis=1)[:, ::-1]
    return first, last
