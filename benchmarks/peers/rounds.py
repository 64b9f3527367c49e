"""Rounds in which engines take turns, so that other work on the machine slows all of them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from benchmarks.peers.token_times import TokenTimes
from benchmarks.rivals.environment import RivalMissingError

Measure = Callable[[], TokenTimes]


@dataclass(frozen=True, slots=True)
class EngineRounds:
    """The times of each engine, one for each round, and why an engine has none."""

    times: dict[str, list[TokenTimes]] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    """The reason, by the name of the engine."""


def run_rounds(
    engines: Mapping[str, Measure],
    rounds: int,
    *,
    missing: Mapping[str, str] | None = None,
    tick: Callable[[], None] = lambda: None,
) -> EngineRounds:
    """Run each engine once in each round; every round begins with another engine.

    An engine that raises is not run again: its rounds are dropped, and the error is its reason.
    """
    measured = EngineRounds(missing=dict(missing or {}))
    names = list(engines)
    for number in range(rounds):
        first = number % max(len(names), 1)
        for name in [*names[first:], *names[:first]]:
            if name not in measured.missing:
                try:
                    measured.times.setdefault(name, []).append(engines[name]())
                except (RivalMissingError, RuntimeError, ValueError, OSError) as error:
                    measured.times.pop(name, None)
                    measured.missing[name] = _line(error)
            tick()
    return measured


def _line(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}"[:300]
