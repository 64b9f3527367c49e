"""Medians and percentiles of more numbers than could be sorted: found by counting.

The bits of a float32, read as an integer, are in the order of the numbers but for the sign. The
upper half of them makes 65,536 bins in each of which numbers differ by less than one in 128; the
lower half tells those of one bin apart.
"""

from collections.abc import Iterable, Sequence

import torch

BINS = 65_536
_HALF_BITS = 16
_BELOW_SIGN = 0x7FFFFFFF


def upper_halves(values: torch.Tensor) -> torch.Tensor:
    """The bin of each number, int64. `values` are float32 and finite."""
    return (_sortable(values) >> _HALF_BITS).long() + BINS // 2


class OrderStatistics:
    """Numbers by their rank, and how many lie below one: exact, from two passes over the same.

    The second pass counts in those bins only that a rank or a limit falls into.
    """

    def __init__(self) -> None:
        self._uppers = torch.zeros(BINS, dtype=torch.int64)
        self._below = self._uppers
        self._slots: dict[int, int] = {}
        self._slot_of_bin = torch.zeros(0)
        self._lowers = torch.zeros(0)

    def count(self, chunk: torch.Tensor) -> None:
        """First pass."""
        self._uppers += torch.bincount(upper_halves(chunk), minlength=BINS).cpu()

    def look_for(self, ranks: Iterable[int], limits: Iterable[float]) -> None:
        """Between the passes: which ranks, from 0, and which limits will be asked for."""
        self._below = self._uppers.cumsum(0) - self._uppers
        bins = {self._bin_of(rank) for rank in ranks}
        bins |= {_key_at_or_above(limit) // BINS for limit in limits}
        self._slots = {number: slot for slot, number in enumerate(sorted(bins))}
        self._slot_of_bin = torch.full((BINS,), -1, dtype=torch.int16)
        self._slot_of_bin[list(self._slots)] = torch.arange(len(bins), dtype=torch.int16)
        self._lowers = torch.zeros(len(bins) * BINS, dtype=torch.int32)

    def count_again(self, chunk: torch.Tensor) -> None:
        """Second pass."""
        slots = self._slot_of_bin.to(chunk.device)[upper_halves(chunk)]
        inside = slots >= 0
        lowers = _sortable(chunk)[inside] & (BINS - 1)
        places = (slots[inside].int() * BINS + lowers).cpu()
        self._lowers.index_add_(0, places, torch.ones_like(places))

    def value(self, rank: int) -> float:
        number = self._bin_of(rank)
        within = torch.tensor(rank - int(self._below[number]))
        lower = int(torch.searchsorted(self._in(number).cumsum(0), within, right=True))
        key = (number - BINS // 2) * BINS + lower
        return float(_numbers(torch.tensor([key], dtype=torch.int32))) + 0.0

    def below(self, limit: float) -> int:
        """How many numbers are less than the limit, which need not be a float32."""
        number, lower = divmod(_key_at_or_above(limit), BINS)
        return int(self._below[number]) + int(self._in(number)[:lower].sum())

    def _in(self, number: int) -> torch.Tensor:
        slot = self._slots[number]
        return self._lowers[slot * BINS : (slot + 1) * BINS]

    def _bin_of(self, rank: int) -> int:
        """The bin that holds a rank: the last that begins at or before it."""
        return int(torch.searchsorted(self._below, torch.tensor(rank), right=True)) - 1


def ranks_between(count: int, percents: Sequence[float]) -> list[tuple[int, int, float]]:
    """For each percentile the ranks around it, and how far it is from one to the other."""
    found = []
    for percent in percents:
        place = (count - 1) * percent / 100.0
        below = int(place)
        found.append((below, min(below + 1, count - 1), place - below))
    return found


def _sortable(values: torch.Tensor) -> torch.Tensor:
    bits = values.contiguous().view(torch.int32)
    return bits ^ ((bits >> 31) & _BELOW_SIGN)


def _numbers(keys: torch.Tensor) -> torch.Tensor:
    return (keys ^ ((keys >> 31) & _BELOW_SIGN)).view(torch.float32)


def _key_at_or_above(limit: float) -> int:
    """The place of the least float32 that is no less than the limit, from 0."""
    number = torch.tensor([limit], dtype=torch.float32)
    if number.item() < limit:
        number = torch.nextafter(number, torch.tensor(torch.inf))
    # Both zeros are no less than zero; the negative one comes first.
    if number.item() == 0.0:
        number = torch.tensor([-0.0])
    return int(_sortable(number).item()) + BINS * BINS // 2
