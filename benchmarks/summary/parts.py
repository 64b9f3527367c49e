"""The parts of `python -m benchmarks all`: a command each, in the order in which they run."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.summary import extract
from benchmarks.summary.comparison import Comparison

Extract = Callable[[Mapping[str, Any]], Iterator[Comparison]]


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchmarkPart:
    """A command of `python -m benchmarks`, run in a process of its own."""

    name: str
    minutes: int
    """About how long it takes on two quiet cores."""
    compared: Extract
    """Yields the comparisons in the JSON file that the command writes."""
    command: tuple[str, ...] = ()
    """The command and its arguments; the name of the part if empty."""
    has_rounds: bool = False
    """Whether the command has an option `--rounds`."""

    def arguments(self, *, threads: int, rounds: int | None) -> tuple[str, ...]:
        """Return the arguments of `python -m benchmarks`."""
        chosen = ("--rounds", str(rounds)) if rounds and self.has_rounds else ()
        return ("--threads", str(threads), *(self.command or (self.name,)), *chosen)


PARTS = (
    BenchmarkPart(name="store", minutes=6, compared=extract.store, has_rounds=True),
    BenchmarkPart(name="decode", minutes=7, compared=extract.decode, has_rounds=True),
    BenchmarkPart(name="step-profile", minutes=3, compared=extract.nothing, has_rounds=True),
    BenchmarkPart(name="peers", minutes=3, compared=extract.peers, has_rounds=True),
    BenchmarkPart(name="batch", minutes=20, compared=extract.batch, has_rounds=True),
    BenchmarkPart(name="conversation", minutes=8, compared=extract.conversation),
    BenchmarkPart(name="prefill", minutes=4, compared=extract.prefill),
    BenchmarkPart(name="replay", minutes=14, compared=extract.replay),
    BenchmarkPart(name="bulk", minutes=5, compared=extract.bulk),
    BenchmarkPart(name="parity", minutes=3, compared=extract.nothing),
    BenchmarkPart(name="start", minutes=2, compared=extract.start, has_rounds=True),
    BenchmarkPart(name="watch", minutes=2, compared=extract.watch, has_rounds=True),
    BenchmarkPart(name="view", minutes=2, compared=extract.nothing, has_rounds=True),
)


def part_named(name: str) -> BenchmarkPart:
    """Return a part. Raise ValueError with the known names for another name."""
    for each in PARTS:
        if each.name == name:
            return each
    raise ValueError(f"unknown part: {name!r}; known: {', '.join(each.name for each in PARTS)}")


def compared(part: BenchmarkPart, figures: Mapping[str, Any]) -> Sequence[Comparison]:
    """Return the comparisons of a part. Raise ValueError for figures of another shape."""
    try:
        return tuple(part.compared(figures))
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        kind = type(error).__name__
        raise ValueError(f"figures of another shape: {kind}: {error}") from None
