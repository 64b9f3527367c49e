"""A figure of tokentape, with that of a peer from the same rounds."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Medians over rounds. Ratios are those of each round: above 1 tokentape is better."""

    what: str
    unit: str
    ours: float | None
    """None if tokentape could not be measured: `note` says why."""
    peer: str = ""
    """The other software, or what is compared with; "" for a figure without a peer."""
    theirs: float | None = None
    ratio: float | None = None
    ratio_min: float | None = None
    ratio_max: float | None = None
    rounds: int = 1
    note: str = ""
    """Why a value is missing."""

    def to_json(self) -> dict[str, Any]:
        """Return the fields as plain values."""
        return asdict(self)


def compare(
    what: str,
    unit: str,
    ours: Sequence[float],
    peer: str,
    theirs: Sequence[float],
    *,
    higher_is_better: bool = False,
) -> Comparison:
    """Return the comparison of the same rounds of tokentape and a peer.

    A time or a size is better when it is lower. Raise ValueError without rounds, or if one has more
    than the other.
    """
    if not ours:
        raise ValueError(f"{what}: no rounds")
    ratios = [their / our for our, their in zip(ours, theirs, strict=True)]
    if higher_is_better:
        ratios = [1 / each for each in ratios]
    return Comparison(
        what=what,
        unit=unit,
        ours=median(ours),
        peer=peer,
        theirs=median(theirs),
        ratio=median(ratios),
        ratio_min=min(ratios),
        ratio_max=max(ratios),
        rounds=len(ratios),
    )


def figure(what: str, unit: str, ours: Sequence[float]) -> Comparison:
    """Return a figure that has no peer. Raise ValueError without rounds."""
    if not ours:
        raise ValueError(f"{what}: no rounds")
    return Comparison(what=what, unit=unit, ours=median(ours), rounds=len(ours))
