"""The noise floor, and how many near ties it lets one expect."""

import math
from collections.abc import Sequence
from typing import Any

from generation import hf
from replay.verdict import Floor

# Measured on SmolLM2-135M with torch 2.13 on x86-64 over full passes, chunks of 64 and 17, eager
# attention and one or two threads (8,700 tokens, prompts of up to 4,700): margins move by 6e-6 on
# average and 4e-5 at most, log-probabilities by 3.4e-5 at most.
FLOORS = {
    "float32": Floor(
        version="float32-2026-11",
        dtype="float32",
        margin_eps=1e-3,
        logprob_floor=1e-4,
        margin_noise=6e-6,
        logprob_noise=3e-6,
        tokens=8700,
        measured_on="SmolLM2-135M, torch 2.13, x86-64",
    )
}

# A count of near ties less likely than this is no accident.
_IMPLAUSIBLE = 1e-6
_GAP_WINDOW = 0.1


def floor_of(model: Any, dtype: str) -> Floor | None:
    """The floor for a recording of that dtype; None where nothing was measured.

    That is so for every model that keeps more than keys and values: recurrent states carry the
    noise of all steps before.
    """
    return None if hf.recurrent(hf.new_cache(model)) else FLOORS.get(dtype)


def predict_flips(gaps: Sequence[float], floor: Floor) -> float:
    """Expected number of honest flips among tokens with these gaps between their two best.

    A flip needs a gap below the noise: half the density of gaps at zero, times the mean noise.
    """
    near_zero = sum(gap < _GAP_WINDOW for gap in gaps)
    return 0.5 * (near_zero / _GAP_WINDOW) * floor.margin_noise


def plausible(flips: int, predicted: float) -> bool:
    """Whether a Poisson count of that mean reaches `flips` now and then."""
    if flips == 0:
        return True
    below = sum(math.exp(-predicted) * predicted**k / math.factorial(k) for k in range(flips))
    return 1.0 - below > _IMPLAUSIBLE or flips == 1
