"""Interventions as a user requests them: the change, the layers, and the positions."""

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypedDict, Unpack

import numpy as np
import torch
from numpy.typing import NDArray

from tokentape.generation.callbacks import GenerationState
from tokentape.generation.checks import check_count, check_text
from tokentape.generation.errors import ModelError
from tokentape.generation.interventions.tensors import tensor_to_bytes
from tokentape.recorder.events import InterventionKind, InterventionRequested
from tokentape.recorder.near_names import nearest
from tokentape.recorder.plain_values import plain_value
from tokentape.recorder.short_forms import short_repr

Numbers = torch.Tensor | NDArray[Any]
"""Floating-point numbers: a tensor or an array of numpy."""
Layers = str | int | Sequence[str | int]
Positions = Literal["all", "prompt", "generated", "last"] | tuple[int, int]
Predicate = Callable[[GenerationState], object]

POSITIONS = ("all", "prompt", "generated", "last")
_ON_GENERATED = ("all", "generated")
_COEFFICIENT_MAX = 1e30
_NUMERIC_FIELDS = (
    "layers",
    "coefficient",
    "tensor_start",
    "dimensions",
    "positions",
    "from_step",
    "turns",
    "source",
)


class InterventionScope(TypedDict, total=False):
    """Where and when an intervention acts; keywords of the `Intervention` class methods."""

    positions: Positions
    """`all` positions computed from now on; the new positions of each `prompt`; `generated` tokens;
    the `last` position of each prompt; or a half-open range of absolute positions."""
    from_step: int | None
    """Only from this generated token of a turn on."""
    turns: tuple[int, int | None] | None
    """The first and the last turn in which it acts; None as last: to the end of the run."""
    when: Predicate | None
    """Called after each generated token with its state; it acts on that token if this is true."""
    dimensions: Sequence[int]
    """Indices of the last axis to change; empty for all."""
    source: Mapping[str, Any]
    """Where the tensor comes from, for the record only."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class Intervention:
    """A change of layers' outputs; made by `steer`, `ablate`, `scale`, `patch` and `placebo`.

    `layers` are layer numbers or module names, as in `find_layer`. The keywords of all these
    methods are described in `InterventionScope`. Raise ModelError for values that fit no model.

    Example:
        >>> import tokentape as tt
        >>> double = tt.Intervention.scale("double", layers=[1], coefficient=2.0, turns=(2, None))
        >>> with tt.Investigation(lm, store=store, name="probe", system_prompt="Be kind.") as run:
        ...     run.intervene(double)
        ...     reply = run.chat("Hello", max_new_tokens=2)
        >>> double.kind, double.layers
        ('scale', (1,))
    """

    name: str
    kind: str
    layers: tuple[str | int, ...]
    coefficient: float | None = None
    tensor: torch.Tensor | None = None
    """Float32 on the CPU: a vector of shape (width,), or a patch of shape (positions, width)."""
    tensor_start: int | None = None
    """The absolute position of the first row of a patch."""
    dimensions: tuple[int, ...] = ()
    positions: Positions = "all"
    from_step: int | None = None
    turns: tuple[int, int | None] | None = None
    when: Predicate | None = None
    source: Mapping[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        tensor = "" if self.tensor is None else f"tensor of shape {tuple(self.tensor.shape)},"
        factor = "" if self.coefficient is None else f"coefficient {self.coefficient:g},"
        layers = f"of layers {', '.join(map(str, self.layers))}:"
        scope = f"positions {self.positions}"
        return short_repr(self, repr(self.name), self.kind, layers, factor, tensor, scope)

    @classmethod
    def steer(
        cls,
        name: str,
        layers: Layers,
        vector: Numbers,
        *,
        coefficient: float = 1.0,
        **scope: Unpack[InterventionScope],
    ) -> "Intervention":
        """Return an intervention that adds `coefficient` times a vector, shape (width,)."""
        tensor = _tensor(vector, axes=1)
        return cls._create("steer", name, layers, scope, coefficient=coefficient, tensor=tensor)

    @classmethod
    def ablate(
        cls,
        name: str,
        layers: Layers,
        *,
        mean: Numbers | None = None,
        **scope: Unpack[InterventionScope],
    ) -> "Intervention":
        """Return an intervention that sets outputs to zero, or to `mean`, shape (width,)."""
        if mean is None:
            return cls._create("ablate_zero", name, layers, scope)
        return cls._create("ablate_mean", name, layers, scope, tensor=_tensor(mean, axes=1))

    @classmethod
    def scale(
        cls, name: str, layers: Layers, coefficient: float, **scope: Unpack[InterventionScope]
    ) -> "Intervention":
        """Return an intervention that multiplies outputs by a number."""
        return cls._create("scale", name, layers, scope, coefficient=coefficient)

    @classmethod
    def patch(
        cls,
        name: str,
        layers: Layers,
        rows: Numbers,
        *,
        start: int,
        **scope: Unpack[InterventionScope],
    ) -> "Intervention":
        """Return an intervention that replaces the outputs at positions `start`, `start + 1`, …

        `rows`, shape (positions, width), are e.g. what `capture` returns for another prompt.
        """
        start = check_count("the start of a patch", start, least=0)
        tensor = _tensor(rows, axes=2)
        return cls._create("patch", name, layers, scope, tensor=tensor, tensor_start=start)

    @classmethod
    def placebo(
        cls, name: str, layers: Layers, **scope: Unpack[InterventionScope]
    ) -> "Intervention":
        """Return an intervention that is recorded but changes nothing, as a control."""
        return cls._create("placebo", name, layers, scope)

    @classmethod
    def _create(
        cls, kind: str, name: str, layers: Layers, scope: InterventionScope, **values: Any
    ) -> "Intervention":
        given = plain_value(layers)
        several = [given] if isinstance(given, str | int) else given
        if not isinstance(several, Sequence):
            raise ModelError(f"layers are names or numbers, not {layers!r}")
        unknown = sorted(set(scope) - set(InterventionScope.__annotations__))
        if unknown:
            raise ModelError(
                f"unknown keyword of an intervention: {unknown[0]!r}"
                f"{nearest(unknown[0], InterventionScope.__annotations__)}; there are "
                f"{', '.join(InterventionScope.__annotations__)}"
            )
        fields: dict[str, Any] = {**plain_value(scope), **values}
        dimensions = fields.pop("dimensions", ())
        if isinstance(dimensions, str) or not isinstance(dimensions, Sequence | range):
            raise ModelError(f"dimensions are indices of the last axis, not {dimensions!r}")
        return cls(
            name=name, kind=kind, layers=tuple(several), dimensions=tuple(dimensions), **fields
        )

    def __post_init__(self) -> None:
        for name in _NUMERIC_FIELDS:
            object.__setattr__(self, name, plain_value(getattr(self, name)))
        check_text("the name of an intervention", self.name)
        if not self.name.strip() or "\0" in self.name:
            raise ModelError(f"an intervention needs a name, not {self.name!r}")
        if not self.layers:
            raise ModelError(f"intervention {self.name!r} has no layer")
        self._check_coefficient()
        self._check_scope()
        for each in self.dimensions:
            check_count("a dimension", each, least=0)
        if len(set(self.dimensions)) != len(self.dimensions):
            raise ModelError(f"intervention {self.name!r} has a dimension twice")
        if not isinstance(self.source, Mapping):
            raise ModelError(
                f"the source of an intervention must be a mapping, not {self.source!r}"
            )

    def _check_coefficient(self) -> None:
        number = self.coefficient
        if number is None:
            return
        is_number = isinstance(number, int | float) and not isinstance(number, bool)
        if not is_number or not math.isfinite(number) or abs(number) > _COEFFICIENT_MAX:
            raise ModelError(
                f"the coefficient of {self.name!r} must be finite and at most 1e30, not {number!r}"
            )

    def _check_scope(self) -> None:
        if isinstance(self.positions, str):
            if self.positions not in POSITIONS:
                raise ModelError(
                    f"positions are {', '.join(map(repr, POSITIONS))} or a range (start, end), "
                    f"not {self.positions!r}"
                )
        else:
            start, end = _pair("positions", self.positions)
            check_count("the first of the positions", start, least=0)
            check_count("the end of the positions", end, least=start + 1)
        if self.from_step is not None:
            check_count("from_step", self.from_step, least=0)
        if self.turns is not None:
            first, last = _pair("turns", self.turns)
            check_count("the first of the turns", first)
            if last is not None:
                check_count("the last of the turns", last, least=first)
        if self.when is not None and not callable(self.when):
            raise ModelError(f"when must be callable, not {self.when!r}")
        if self.positions in ("prompt", "last") and (self.when or self.from_step is not None):
            raise ModelError(
                f"intervention {self.name!r} acts on prompts only, but from_step and when choose "
                "generated tokens: choose other positions, or limit it by turns"
            )

    def acts_on_prompt(
        self, new_from: int, end: int, *, turn: int, first_step: int
    ) -> tuple[int, int] | None:
        """Return the half-open range between `new_from` and `end` of a prompt on which it acts.

        None if it does not act there. `first_step` is the number of tokens that the turn has
        generated before this prompt.
        """
        if not self._in_turn(turn) or self.when is not None or self.positions == "generated":
            return None
        if self.from_step is not None and first_step < max(self.from_step, 1):
            return None
        if self.positions == "last":
            new_from = max(new_from, end - 1)
        bounds = self._bounds()
        start, end = max(new_from, bounds[0]), end if bounds[1] is None else min(end, bounds[1])
        return (start, end) if start < end else None

    def acts_on_token(
        self, position: int, *, turn: int, step: int, state: GenerationState | None
    ) -> bool:
        """Return whether it acts on the token sampled last; calls the predicate, if any."""
        if not self._in_turn(turn):
            return False
        # Called for every token, because a predicate may keep state.
        holds = self.when is None or (state is not None and bool(self.when(state)))
        start, end = self._bounds()
        return (
            holds
            and (self.positions in _ON_GENERATED or not isinstance(self.positions, str))
            and start <= position
            and (end is None or position < end)
            and (self.from_step is None or step >= self.from_step)
        )

    def event(
        self, *, layers: tuple[str, ...], clear_cache: bool, turn: int | None
    ) -> InterventionRequested:
        """Return the event that records the request; `layers` are full module names."""
        return InterventionRequested(
            name=self.name,
            kind=InterventionKind(self.kind),
            layers=layers,
            coefficient=None if self.coefficient is None else float(self.coefficient),
            dimensions=self.dimensions,
            tensor_sha256=self.tensor_sha256,
            tensor_start=self.tensor_start,
            positions=self._described_positions(),
            schedule=self._described_schedule(),
            source=dict(self.source),
            clear_cache=clear_cache,
            turn=turn,
        )

    @property
    def tensor_sha256(self) -> str:
        """The sha256 of the tensor as bytes; "" without a tensor."""
        if self.tensor is None:
            return ""
        return hashlib.sha256(tensor_to_bytes(self.tensor)).hexdigest()

    def _in_turn(self, turn: int) -> bool:
        if self.turns is None:
            return True
        first, last = self.turns
        return first <= turn and (last is None or turn <= last)

    def _bounds(self) -> tuple[int, int | None]:
        """Return the half-open range of absolute positions to which it is limited."""
        start, end = (0, None) if isinstance(self.positions, str) else self.positions
        if self.tensor_start is None or self.tensor is None:
            return start, end
        rows_end = self.tensor_start + len(self.tensor)
        return max(start, self.tensor_start), rows_end if end is None else min(end, rows_end)

    def _described_positions(self) -> str:
        if isinstance(self.positions, str):
            return self.positions
        return f"{self.positions[0]}:{self.positions[1]}"

    def _described_schedule(self) -> dict[str, Any]:
        """Return the limits in time; empty if it always acts."""
        described: dict[str, Any] = {}
        if self.from_step is not None:
            described["from_step"] = self.from_step
        if self.turns is not None:
            described["turns"] = list(self.turns)
        if self.when is not None:
            described["when"] = getattr(self.when, "__qualname__", type(self.when).__qualname__)
        return described


def can_rebuild(event: InterventionRequested) -> bool:
    """Return whether an intervention can be rebuilt from its event: predicates are not recorded."""
    return "when" not in event.schedule


def rebuild_intervention(event: InterventionRequested, tensor: torch.Tensor | None) -> Intervention:
    """Return the intervention of a recorded request."""
    positions: Any = event.positions
    if positions not in POSITIONS:
        start, _, end = positions.partition(":")
        positions = (int(start), int(end))
    turns = event.schedule.get("turns")
    return Intervention(
        name=event.name,
        kind=event.kind,
        layers=event.layers,
        coefficient=event.coefficient,
        tensor=tensor,
        tensor_start=event.tensor_start,
        dimensions=event.dimensions,
        positions=positions,
        from_step=event.schedule.get("from_step"),
        turns=None if turns is None else (turns[0], turns[1]),
        source=event.source,
    )


def _tensor(given: Numbers, *, axes: int) -> torch.Tensor:
    """Return a float32 copy on the CPU of a tensor, or of an array of numpy or pandas.

    Raise ModelError for a wrong type, shape or value.
    """
    if not isinstance(given, torch.Tensor) and hasattr(given, "to_numpy"):
        given = given.to_numpy()
    if isinstance(given, np.ndarray) and given.dtype.kind == "f":
        given = torch.tensor(given.astype(np.float64 if given.itemsize > 4 else np.float32))
    if not isinstance(given, torch.Tensor) or not given.is_floating_point():
        raise ModelError(f"a floating-point tensor is needed, not {type(given).__name__}")
    if given.dim() != axes or not given.numel():
        shape = "(width,)" if axes == 1 else "(positions, width)"
        raise ModelError(f"a tensor of shape {shape} is needed, not {tuple(given.shape)}")
    copy = given.detach().to("cpu", torch.float32, copy=True).contiguous()
    if not bool(copy.isfinite().all()):
        raise ModelError("the tensor has values that are not finite")
    return copy


def _pair(name: str, value: Any) -> tuple[Any, Any]:
    if not isinstance(value, tuple | list) or len(value) != 2:
        raise ModelError(f"{name} must be a pair of numbers, not {value!r}")
    return value[0], value[1]
