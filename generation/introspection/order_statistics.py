"""Exact order statistics of more numbers than can be sorted, by a radix select in two passes.

The bits of a non-negative float32, read as an integer, order as the numbers do. Their upper 16
bits give 65,536 bins, each spanning less than 1 % of its numbers' size; the lower 16 bits
distinguish the numbers of one bin.
"""

from collections.abc import Iterable, Sequence

import torch

BINS = 65_536
_HALF_BITS = 16
_BELOW_SIGN = 0x7FFFFFFF


def upper_halves(values: torch.Tensor) -> torch.Tensor:
    """Return the bin of each number as int64. `values` are float32 and finite."""
    return (_sortable(values) >> _HALF_BITS).long() + BINS // 2


class OrderStatistics:
    """Numbers at given ranks and counts below given limits, exact.

    Call `count` with all chunks, then `select`, then `count_selected` with the same chunks again.
    The second pass counts only in the bins that hold a rank or a limit.
    """

    def __init__(self) -> None:
        self._uppers = torch.zeros(BINS, dtype=torch.int64)
        self._below = self._uppers
        self._slots: dict[int, int] = {}
        self._slot_of_bin = torch.zeros(0)
        self._lowers = torch.zeros(0)

    def count(self, chunk: torch.Tensor) -> None:
        """Count a chunk in the first pass."""
        self._uppers += torch.bincount(upper_halves(chunk), minlength=BINS).cpu()

    def select(self, ranks: Iterable[int], limits: Iterable[float]) -> None:
        """Choose, between the passes, the ranks (from 0) and limits that will be queried."""
        self._below = self._uppers.cumsum(0) - self._uppers
        bins = {self._bin_of(rank) for rank in ranks}
        bins |= {_key_at_or_above(limit) // BINS for limit in limits}
        self._slots = {number: slot for slot, number in enumerate(sorted(bins))}
        self._slot_of_bin = torch.full((BINS,), -1, dtype=torch.int16)
        self._slot_of_bin[list(self._slots)] = torch.arange(len(bins), dtype=torch.int16)
        self._lowers = torch.zeros(len(bins) * BINS, dtype=torch.int32)

    def count_selected(self, chunk: torch.Tensor) -> None:
        """Count a chunk in the second pass, in the selected bins."""
        slots = self._slot_of_bin.to(chunk.device)[upper_halves(chunk)]
        inside = slots >= 0
        lowers = _sortable(chunk)[inside] & (BINS - 1)
        indices = (slots[inside].int() * BINS + lowers).cpu()
        self._lowers.index_add_(0, indices, torch.ones_like(indices))

    def value_at(self, rank: int) -> float:
        """Return the number at a selected rank."""
        number = self._bin_of(rank)
        within = torch.tensor(rank - int(self._below[number]))
        lower = int(torch.searchsorted(self._in(number).cumsum(0), within, right=True))
        key = (number - BINS // 2) * BINS + lower
        return float(_numbers(torch.tensor([key], dtype=torch.int32))) + 0.0

    def count_below(self, limit: float) -> int:
        """Return how many numbers are less than a selected limit, which may be a float64."""
        number, lower = divmod(_key_at_or_above(limit), BINS)
        return int(self._below[number]) + int(self._in(number)[:lower].sum())

    def _in(self, number: int) -> torch.Tensor:
        slot = self._slots[number]
        return self._lowers[slot * BINS : (slot + 1) * BINS]

    def _bin_of(self, rank: int) -> int:
        """Return the bin that holds a rank: the last one that begins at or before it."""
        return int(torch.searchsorted(self._below, torch.tensor(rank), right=True)) - 1


def ranks_between(count: int, percents: Sequence[float]) -> list[tuple[int, int, float]]:
    """Return for each percentile its two neighbouring ranks and the fraction between them."""
    found = []
    for percent in percents:
        exact = (count - 1) * percent / 100.0
        below = int(exact)
        found.append((below, min(below + 1, count - 1), exact - below))
    return found


def _sortable(values: torch.Tensor) -> torch.Tensor:
    bits = values.contiguous().view(torch.int32)
    return bits ^ ((bits >> 31) & _BELOW_SIGN)


def _numbers(keys: torch.Tensor) -> torch.Tensor:
    return (keys ^ ((keys >> 31) & _BELOW_SIGN)).view(torch.float32)


def _key_at_or_above(limit: float) -> int:
    """Return the sort key, from 0, of the smallest float32 that is not below the limit."""
    number = torch.tensor([limit], dtype=torch.float32)
    if number.item() < limit:
        number = torch.nextafter(number, torch.tensor(torch.inf))
    # Neither zero is below zero, and the negative zero sorts first.
    if number.item() == 0.0:
        number = torch.tensor([-0.0])
    return int(_sortable(number).item()) + BINS * BINS // 2
