"""What each filter did to the candidates: it removed them, it did not, or neither is known."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from tokentape.replay.view.candidate_bounds import Bounds, Flags, Floats
from tokentape.replay.view.filter_settings import FILTERS, FilterSettings

_ROUNDED = 2e-4
"""The error of a comparison of probabilities that were summed in float32."""

_AFTER_TYPICAL = ("epsilon_cutoff", "eta_cutoff")


@dataclass(frozen=True, slots=True)
class Total:
    """Bounds on the weight of the tokens that the top-k filter left, of shape (rows, 1)."""

    low: Floats
    high: Floats


@dataclass(frozen=True, slots=True)
class Effect:
    """What one filter did, if the filters before it left the candidate."""

    removes: Flags
    """Where it removed the candidate for sure."""
    keeps: Flags
    """Where it did not for sure."""


def effects_of(bounds: Bounds, settings: FilterSettings) -> list[tuple[str, Effect]]:
    """Return the effect of each active filter, in the order in which they are applied."""
    values = dict(settings.filters)
    top_k = int(values["top_k"]) if values.get("top_k", 0) > 0 else None
    total = Total(bounds.total_low(top_k, "top_h" in values), bounds.total_high(top_k))
    effects: list[tuple[str, Effect]] = []
    for name in FILTERS:
        if name in values:
            effect = _EFFECTS[name](bounds, float(values[name]), total)
            # Each filter but the typical one keeps the likeliest token.
            if name != "typical_p":
                effect = Effect(
                    effect.removes & (bounds.greater > 0), effect.keeps | bounds.is_first
                )
            if "typical_p" in values and name in _AFTER_TYPICAL:
                # It keeps the likeliest of the remaining tokens, and which that is is not known.
                effect = Effect(_never(bounds), effect.keeps)
            effects.append((name, effect))
    return effects


def _top_k(bounds: Bounds, value: float, _: Total) -> Effect:
    """The candidate remains if fewer than k tokens have a greater score."""
    index = np.arange(bounds.rows.logprobs.shape[1])
    return Effect(bounds.greater >= value, (index < value) & ~bounds.rows.lowered)


def _top_p(bounds: Bounds, value: float, total: Total) -> Effect:
    """The candidate remains if those with a greater score weigh less than p of all."""
    removes = bounds.before_low > (value + _ROUNDED) * total.high
    keeps = bounds.before_high < (value - _ROUNDED) * total.low
    return Effect(removes, keeps & ~bounds.rows.lowered)


def _min_p(bounds: Bounds, value: float, _: Total) -> Effect:
    """The candidate remains if it weighs at least a fraction of the likeliest token."""
    rows = bounds.rows
    least = value * rows.low.max(axis=1, keepdims=True)
    most = value * rows.high.max(axis=1, keepdims=True)
    return Effect(rows.high < least * (1 - _ROUNDED), rows.low > most * (1 + _ROUNDED))


def _epsilon(bounds: Bounds, value: float, total: Total) -> Effect:
    """The candidate remains if its probability is at least the cutoff."""
    rows = bounds.rows
    removes = rows.high < value * bounds.remaining_low * (1 - _ROUNDED)
    return Effect(removes, rows.low > value * total.high * (1 + _ROUNDED))


def _eta(bounds: Bounds, value: float, total: Total) -> Effect:
    """The cutoff is at most epsilon; how much lower depends on an entropy that is not recorded."""
    return Effect(_never(bounds), bounds.rows.low > value * total.high * (1 + _ROUNDED))


def _unknown(bounds: Bounds, _: float, __: Total) -> Effect:
    """It depends on an entropy that is not recorded."""
    return Effect(_never(bounds), _never(bounds))


def _never(bounds: Bounds) -> Flags:
    return np.zeros(bounds.rows.logprobs.shape, bool)


_EFFECTS: dict[str, Callable[[Bounds, float, Total], Effect]] = {
    "top_h": _unknown,
    "top_k": _top_k,
    "top_p": _top_p,
    "min_p": _min_p,
    "typical_p": _unknown,
    "epsilon_cutoff": _epsilon,
    "eta_cutoff": _eta,
}


def first_remover(effects: list[tuple[str, Effect]], codes: dict[str, int]) -> Any:
    """Return the code of the filter that removed each candidate, if one did; else that of `other`.

    It is the first one that does not surely keep it, unless a later one may have removed it.
    """
    shape = effects[0][1].keeps.shape
    found = np.full(shape, codes["other"], np.uint8)
    open_ = np.ones(shape, bool)
    maybe = np.zeros(shape, np.uint8)
    for name, effect in effects:
        # Nothing before it may have removed the candidate, and it surely did.
        found[open_ & effect.removes & (maybe == 0)] = codes[name]
        open_ &= ~effect.removes
        doubtful = open_ & ~effect.keeps & ~effect.removes
        maybe[doubtful & (maybe > 0)] = codes["other"]
        maybe[doubtful & (maybe == 0)] = codes[name]
    # No filter surely removed it, so the only one that may have done it did.
    found[open_ & (maybe > 0)] = maybe[open_ & (maybe > 0)]
    return found
