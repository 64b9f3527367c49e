"""Intervals of a mean over runs."""

import functools
import math
from typing import Literal

import numpy as np

MeanInterval = Literal["t", "bootstrap"]

RESAMPLES = 1000
# The 0.975 quantiles of Student's t with 1, 2, … 30 degrees of freedom.
_T = (
    *(12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281),
    *(2.2010, 2.1788, 2.1604, 2.1448, 2.1314, 2.1199, 2.1098, 2.1009, 2.0930, 2.0860),
    *(2.0796, 2.0739, 2.0687, 2.0639, 2.0595, 2.0555, 2.0518, 2.0484, 2.0452, 2.0423),
)
_Z = 1.959964


def interval_of_mean(
    values: np.ndarray, interval: MeanInterval = "t"
) -> tuple[float, float, float]:
    """Return the mean of some runs, and the ends of its 95 % interval: NaN for fewer than two.

    With n values of mean m and standard deviation s (of n - 1), `t` is Student's interval,
    m ± t(0.975, n - 1) s / √n (Student, "The probable error of a mean", Biometrika 6, 1908). It is
    exact for normal values. `bootstrap` is the percentile interval: the 0.025 and 0.975 quantiles
    of the means of 1,000 resamples of n values with replacement, always the same ones (Efron and
    Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13). It assumes no distribution, and
    is too narrow for fewer than about ten runs.
    """
    mean = float(np.mean(values))
    count = len(values)
    if count < 2:
        return mean, math.nan, math.nan
    if interval == "bootstrap":
        low, high = np.quantile(values[resampled(count)].mean(axis=1), (0.025, 0.975))
        return mean, float(low), float(high)
    half = t_quantile(count - 1) * float(np.std(values, ddof=1)) / math.sqrt(count)
    return mean, mean - half, mean + half


def t_quantile(degrees: int) -> float:
    """Return the 0.975 quantile of Student's t.

    Above 30 degrees of freedom that is an expansion around the normal quantile, right to three
    decimals (Abramowitz and Stegun, Handbook of Mathematical Functions, 26.7.5).
    """
    if degrees <= len(_T):
        return _T[degrees - 1]
    z = _Z
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    return z + first / degrees + second / degrees**2


@functools.lru_cache(maxsize=64)
def resampled(count: int) -> np.ndarray:
    """Return the places of 1,000 resamples of so many values, int64 of shape (1000, count)."""
    return np.random.default_rng(0).integers(count, size=(RESAMPLES, count))
