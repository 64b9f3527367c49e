"""The sections of the benchmark, in the order in which they begin."""

import importlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from benchmarks.gpu.bench import Bench

DTYPES = ("float32", "bfloat16", "float16")


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A section, whose parts run in a process each."""

    name: str
    limit_s: int
    """Seconds after which a part is ended."""
    dtypes: tuple[str, ...] = ()
    """Those that it is measured in, one after the other."""
    alone: bool = False
    """Whether nothing else may run meanwhile, because time or the card's memory is measured."""

    def parts(self, *, tiny: bool) -> tuple[tuple[str, ...], ...]:
        """Return the dtypes of each process: one each, or all if starting it takes longest."""
        if tiny or not self.dtypes:
            return (self.dtypes,)
        return tuple((each,) for each in self.dtypes)

    def run(self, bench: Bench, dtypes: Sequence[str]) -> None:
        """Measure in each dtype: call `measure` of the module with the name of the section."""
        module: Any = importlib.import_module(f"benchmarks.gpu.{self.name}")
        for dtype in dtypes or ("",):
            module.measure(replace(bench, dtype=dtype))


SECTIONS = (
    Section(name="environment", limit_s=45),
    Section(name="draws", limit_s=45),
    Section(name="retraces", limit_s=150, dtypes=DTYPES),
    Section(name="parity", limit_s=120, dtypes=DTYPES),
    Section(name="faults", limit_s=90, dtypes=("bfloat16", "float16")),
    Section(name="deterministic", limit_s=45, alone=True),
    Section(name="turns", limit_s=80, alone=True),
    Section(name="speed", limit_s=100, alone=True),
    Section(name="memory", limit_s=110, alone=True),
)
"""The checks run side by side, and then the measurements of time and memory one by one.

On an H200 the checks took 160 seconds, five at a time, and the rest 240. The limits allow for a
host of half the speed, and the last section has what the others leave.
"""


def section_named(name: str) -> Section:
    """Return a section. Raise ValueError with the known names for another name."""
    for each in SECTIONS:
        if each.name == name:
            return each
    known = ", ".join(each.name for each in SECTIONS)
    raise ValueError(f"unknown section: {name!r}; known: {known}")
