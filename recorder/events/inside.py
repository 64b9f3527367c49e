"""What was seen inside the model, and what was done to it there."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from tokentape.recorder.events._check import check, check_counts, check_finite

ACTIVATION_SOURCES = ("prefill", "decode", "recomputed")
INTERVENTION_KINDS = (
    "steer",
    "ablate_zero",
    "ablate_mean",
    "scale",
    "patch",
    "placebo",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ActivationObserved:
    """Statistics of what some layers gave, over the positions `start` to `end` of the sequence.

    The range is half-open, and `positions_covered` of it were computed: what came from the cache
    was not. `source` is the `prefill` or the `decode` step that computed them, or a forward of its
    own, `recomputed`. `statistics` has numbers by layer and name.
    """

    version: ClassVar[int] = 1
    turn: int
    source: str
    start: int
    end: int
    positions_covered: int
    statistics: Mapping[str, Mapping[str, Any]]

    def __post_init__(self) -> None:
        check(self.source in ACTIVATION_SOURCES, f"no such source: {self.source!r}")
        check_counts(turn=self.turn, start=self.start, positions_covered=self.positions_covered)
        check(
            self.positions_covered <= self.end - self.start,
            f"{self.positions_covered} positions are not among {self.start} to {self.end}",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class InterventionDescribed:
    """What is done to what `layers` give: the fields that a request and its effects share.

    `name` tells interventions of a run apart. `kind` says what is done: `steer` adds `coefficient`
    times the tensor, `scale` multiplies by the coefficient, `ablate_zero` and `ablate_mean` put
    zero or the tensor in its place, `patch` puts a row of the tensor at each position from
    `tensor_start` on, `placebo` does nothing. `dimensions` limits it to some of the last axis;
    empty for all. `tensor_sha256` names a blob of the store, empty where the kind needs none.
    `positions` and `schedule` are the rule by which it acts, and `source` is where the tensor was
    taken from.
    """

    name: str
    kind: str
    layers: tuple[str, ...]
    coefficient: float | None
    dimensions: tuple[int, ...]
    tensor_sha256: str
    tensor_start: int | None
    positions: str
    schedule: Mapping[str, Any]
    source: Mapping[str, Any]

    def __post_init__(self) -> None:
        check(self.kind in INTERVENTION_KINDS, f"no such kind of intervention: {self.kind!r}")
        check(bool(self.layers), "an intervention is in at least one layer")
        check_counts(tensor_start=self.tensor_start)
        if self.coefficient is not None:
            check_finite(coefficient=self.coefficient)


@dataclass(frozen=True, slots=True, kw_only=True)
class InterventionRequested(InterventionDescribed):
    """From the next prompt on, an intervention is to act where its rule says, until withdrawn.

    It takes the place of one of its name. With `clear_cache` that prompt is computed anew, and the
    rule holds for all of it. A predicate in `schedule` is only named. `turn` is the one that pauses
    for the call of a tool; None between turns.
    """

    version: ClassVar[int] = 1
    clear_cache: bool
    turn: int | None = None

    def __post_init__(self) -> None:
        InterventionDescribed.__post_init__(self)
        check_counts(turn=self.turn)


@dataclass(frozen=True, slots=True, kw_only=True)
class InterventionWithdrawn:
    """From the next prompt on, the intervention of that name is to act no more.

    With `clear_cache` that prompt is computed anew, without it. `turn` is as in the request.
    """

    version: ClassVar[int] = 1
    name: str
    clear_cache: bool
    turn: int | None = None

    def __post_init__(self) -> None:
        check_counts(turn=self.turn)


@dataclass(frozen=True, slots=True, kw_only=True)
class InterventionApplied(InterventionDescribed):
    """From `position` on, an intervention acts, until it is removed again.

    It holds for the stream as it is from there on and for all that is added to it. What lies before
    `position` stays as it was computed.
    """

    version: ClassVar[int] = 1
    turn: int
    position: int

    def __post_init__(self) -> None:
        InterventionDescribed.__post_init__(self)
        check_counts(turn=self.turn, position=self.position)


@dataclass(frozen=True, slots=True, kw_only=True)
class InterventionRemoved:
    """From `position` on the intervention of that name acts no more.

    It was withdrawn, or its rule has it rest there, and it may be applied again.
    """

    version: ClassVar[int] = 1
    turn: int
    position: int
    name: str

    def __post_init__(self) -> None:
        check_counts(turn=self.turn, position=self.position)


@dataclass(frozen=True, slots=True, kw_only=True)
class MemorySampled:
    """How much memory there was in use when a turn had ended.

    `kv_bytes` is the storage of everything that is cached, `process_bytes` the resident memory of
    the process, `transient_bytes` what it held at most in the turn beyond what it held at its
    beginning (None where the system does not say). `device_bytes` and `device_peak_bytes` are of
    the accelerator's memory; None where there is none.
    """

    version: ClassVar[int] = 1
    turn: int
    kv_bytes: int
    process_bytes: int
    transient_bytes: int | None
    device_bytes: int | None
    device_peak_bytes: int | None

    def __post_init__(self) -> None:
        check_counts(
            turn=self.turn,
            kv_bytes=self.kv_bytes,
            process_bytes=self.process_bytes,
            transient_bytes=self.transient_bytes,
            device_bytes=self.device_bytes,
            device_peak_bytes=self.device_peak_bytes,
        )
