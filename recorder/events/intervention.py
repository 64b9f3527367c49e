"""Events of interventions: requested, withdrawn, applied and removed."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, ClassVar

from tokentape.recorder.escapes import visible
from tokentape.recorder.events.checks import check, check_counts, check_finite, choose
from tokentape.recorder.events.fields import (
    Counts,
    Label,
    PayloadSha256,
    Settings,
    Text,
    Texts,
    Values,
)
from tokentape.recorder.events.traits import EventBase, EventTraits


class InterventionKind(StrEnum):
    """How an intervention changes the output of a layer."""

    STEER = "steer"
    """Add `coefficient` times the tensor."""
    ABLATE_ZERO = "ablate_zero"
    """Set it to zero."""
    ABLATE_MEAN = "ablate_mean"
    """Set it to the tensor."""
    SCALE = "scale"
    """Multiply it by `coefficient`."""
    PATCH = "patch"
    """Set each position from `tensor_start` on to a row of the tensor."""
    PLACEBO = "placebo"
    """Change nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InterventionDescribed(EventBase):
    """The fields that a requested and an applied intervention share."""

    name: Text
    """Distinguishes the interventions of a run."""
    kind: InterventionKind
    layers: Texts
    """Names of the modules whose outputs change."""
    coefficient: float | None
    """None for kinds that need none."""
    dimensions: Counts
    """Indices of the last axis that change; empty for all."""
    tensor_sha256: PayloadSha256
    """The sha256 of the blob that holds the tensor; empty for kinds that need none."""
    tensor_start: int | None
    """The position of the first row of a patch, else None."""
    positions: Label
    """`all`, `prompt`, `generated`, `last`, or a half-open range such as `3:9`."""
    schedule: Settings
    """Limits of the rule: `from_step`, `turns`, and the name of a predicate as `when`."""
    source: Values
    """How the tensor was made, for instance from which prompts."""

    def __post_init__(self) -> None:
        choose(self, kind=InterventionKind)
        check(bool(self.layers), "an intervention must have at least one layer")
        check_counts(tensor_start=self.tensor_start)
        if self.coefficient is not None:
            check_finite(coefficient=self.coefficient)

    def definition(self) -> dict[str, Any]:
        """Return what distinguishes the intervention from another one of its name."""
        return {
            "kind": str(self.kind),
            "layers": list(self.layers),
            "coefficient": self.coefficient,
            "dimensions": list(self.dimensions),
            "tensor_sha256": self.tensor_sha256,
            "tensor_start": self.tensor_start,
            "positions": self.positions,
            "schedule": dict(self.schedule),
            "source": dict(self.source),
        }

    def describe_rule(self) -> str:
        """Return name, kind, layers, coefficient and rule in a line, escaped."""
        parts = [f"{self.name}: {self.kind} in {', '.join(self.layers)}"]
        if self.coefficient is not None:
            parts.append(f"coefficient {self.coefficient:g}")
        if self.dimensions:
            count = len(self.dimensions)
            parts.append(f"{count} dimension{'' if count == 1 else 's'}")
        rule = [f"positions {self.positions}"]
        rule += (f"{name} {value}" for name, value in self.schedule.items() if value is not None)
        return visible(f"{', '.join(parts)} ({', '.join(rule)})")


@dataclass(frozen=True, slots=True, kw_only=True)
class InterventionRequested(InterventionDescribed):
    """The user requested an intervention; its rule holds from the next prompt on.

    It replaces an intervention of the same name.
    """

    version: ClassVar[int] = 1
    traits: ClassVar[EventTraits] = EventTraits(payload="tensor_sha256")

    clear_cache: bool
    """Whether the next prompt is computed from its start, under the intervention."""
    turn: int | None = None
    """The turn that is paused for a tool call; None between turns."""

    def __post_init__(self) -> None:
        InterventionDescribed.__post_init__(self)
        check_counts(turn=self.turn)

    def describe(self) -> str:
        """Return the event as text for a transcript."""
        return f"intervention {self.describe_rule()}, requested"


@dataclass(frozen=True, slots=True, kw_only=True)
class InterventionWithdrawn(EventBase):
    """The user withdrew an intervention; it does not act on the next prompt."""

    version: ClassVar[int] = 1

    name: Text
    clear_cache: bool
    """Whether the next prompt is computed from its start, without the intervention."""
    turn: int | None = None
    """The turn that is paused for a tool call; None between turns."""

    def __post_init__(self) -> None:
        check_counts(turn=self.turn)

    def describe(self) -> str:
        """Return the event as text for a transcript."""
        return f"intervention {visible(self.name)}: withdrawn"


@dataclass(frozen=True, slots=True, kw_only=True)
class InterventionApplied(InterventionDescribed):
    """An intervention acts on all positions from `position` on, until it is removed.

    Earlier positions are not computed again.
    """

    version: ClassVar[int] = 1
    traits: ClassVar[EventTraits] = EventTraits(payload="tensor_sha256")

    turn: int
    position: int

    def __post_init__(self) -> None:
        InterventionDescribed.__post_init__(self)
        check_counts(turn=self.turn, position=self.position)

    def describe(self) -> str:
        """Return the event as text for a transcript."""
        return f"intervention {self.describe_rule()}, from position {self.position}"


@dataclass(frozen=True, slots=True, kw_only=True)
class InterventionRemoved(EventBase):
    """An intervention does not act from `position` on.

    It was withdrawn, or its rule pauses there; it may be applied again.
    """

    version: ClassVar[int] = 1

    turn: int
    position: int
    name: Text

    def __post_init__(self) -> None:
        check_counts(turn=self.turn, position=self.position)

    def describe(self) -> str:
        """Return the event as text for a transcript."""
        return f"intervention {visible(self.name)}: removed"
