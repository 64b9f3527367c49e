"""What an experimenter asks for: what is done, in which layers, and to which positions."""

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypedDict, Unpack

import torch

from tokentape.generation.callbacks import GenerationState
from tokentape.generation.checks import check_count, check_text
from tokentape.generation.errors import ModelError
from tokentape.generation.interventions.tensors import tensor_bytes
from tokentape.recorder.events import InterventionRequested

Layers = str | int | Sequence[str | int]
Positions = Literal["all", "prompt", "generated", "last"] | tuple[int, int]
Predicate = Callable[[GenerationState], object]

POSITIONS = ("all", "prompt", "generated", "last")
_BEHIND_PROMPT = ("all", "generated")
_COEFFICIENT_MAX = 1e30


class Rule(TypedDict, total=False):
    """Where and when an intervention acts, and where its tensor was taken from.

    `positions` are `all` that are computed from now on, of the `prompt` of each turn what is new,
    what is `generated`, the `last` of the prompt, or a half-open range of absolute positions.
    `from_step` leaves out what comes before that token of a turn, `turns` is the first and the last
    turn that it acts in (None: to the end), and `when` is asked after each token whether it acts on
    that token. `dimensions` limits it to some of the last axis. `source` is recorded as it is.
    """

    positions: Positions
    from_step: int | None
    turns: tuple[int, int | None] | None
    when: Predicate | None
    dimensions: Sequence[int]
    source: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Intervention:
    """Something that is done to what layers give: made by `steer`, `ablate`, `scale`, `patch`.

    `layers` are named as `find_layer` takes them. `tensor` is float32: a vector, or the rows of a
    patch, of which the first belongs to position `tensor_start`. The other fields are those of
    `Rule`. Raises ModelError for what cannot be done, whatever the model.
    """

    name: str
    kind: str
    layers: tuple[str | int, ...]
    coefficient: float | None = None
    tensor: torch.Tensor | None = None
    tensor_start: int | None = None
    dimensions: tuple[int, ...] = ()
    positions: Positions = "all"
    from_step: int | None = None
    turns: tuple[int, int | None] | None = None
    when: Predicate | None = None
    source: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def steer(
        cls,
        name: str,
        layers: Layers,
        vector: torch.Tensor,
        *,
        coefficient: float = 1.0,
        **rule: Unpack[Rule],
    ) -> "Intervention":
        """Add `coefficient` times a vector."""
        tensor = _tensor(vector, axes=1)
        return cls._made("steer", name, layers, rule, coefficient=coefficient, tensor=tensor)

    @classmethod
    def ablate(
        cls, name: str, layers: Layers, *, mean: torch.Tensor | None = None, **rule: Unpack[Rule]
    ) -> "Intervention":
        """Put zeros in place of what is given, or the vector `mean`."""
        if mean is None:
            return cls._made("ablate_zero", name, layers, rule)
        return cls._made("ablate_mean", name, layers, rule, tensor=_tensor(mean, axes=1))

    @classmethod
    def scale(
        cls, name: str, layers: Layers, coefficient: float, **rule: Unpack[Rule]
    ) -> "Intervention":
        """Multiply by a number."""
        return cls._made("scale", name, layers, rule, coefficient=coefficient)

    @classmethod
    def patch(
        cls,
        name: str,
        layers: Layers,
        rows: torch.Tensor,
        *,
        start: int,
        **rule: Unpack[Rule],
    ) -> "Intervention":
        """Put the rows in place of what is given at the positions from `start` on; no others.

        Rows, of shape (positions, width), are what `capture` gives of another run.
        """
        check_count("the start of a patch", start, least=0)
        tensor = _tensor(rows, axes=2)
        return cls._made("patch", name, layers, rule, tensor=tensor, tensor_start=start)

    @classmethod
    def placebo(cls, name: str, layers: Layers, **rule: Unpack[Rule]) -> "Intervention":
        """Change nothing, in the same way: a control that is recorded as the others are."""
        return cls._made("placebo", name, layers, rule)

    @classmethod
    def _made(cls, kind: str, name: str, layers: Layers, rule: Rule, **what: Any) -> "Intervention":
        several = [layers] if isinstance(layers, str | int) else layers
        if not isinstance(several, Sequence):
            raise ModelError(f"layers are named by texts or numbers, not by {layers!r}")
        unknown = sorted(set(rule) - set(Rule.__annotations__))
        if unknown:
            raise ModelError(f"an intervention has no setting {unknown[0]!r}")
        fields: dict[str, Any] = {**rule, **what}
        dimensions = fields.pop("dimensions", ())
        if isinstance(dimensions, str) or not isinstance(dimensions, Sequence | range):
            raise ModelError(f"dimensions are numbers of the last axis, not {dimensions!r}")
        return cls(
            name=name, kind=kind, layers=tuple(several), dimensions=tuple(dimensions), **fields
        )

    def __post_init__(self) -> None:
        check_text("the name of an intervention", self.name)
        if not self.name.strip() or "\0" in self.name:
            raise ModelError(f"an intervention needs a name: {self.name!r}")
        if not self.layers:
            raise ModelError(f"intervention {self.name!r} is in no layer")
        self._refuse_coefficient()
        self._refuse_rule()
        for each in self.dimensions:
            check_count("a dimension", each, least=0)
        if len(set(self.dimensions)) != len(self.dimensions):
            raise ModelError(f"intervention {self.name!r} names a dimension twice")
        if not isinstance(self.source, Mapping):
            raise ModelError(f"the source of an intervention is a mapping, not {self.source!r}")

    def _refuse_coefficient(self) -> None:
        number = self.coefficient
        if number is None:
            return
        plain = isinstance(number, int | float) and not isinstance(number, bool)
        if not plain or not math.isfinite(number) or abs(number) > _COEFFICIENT_MAX:
            raise ModelError(f"the coefficient of {self.name!r} is a finite number, not {number!r}")

    def _refuse_rule(self) -> None:
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
            raise ModelError(f"when is something that can be called, not {self.when!r}")
        if self.positions in ("prompt", "last") and (self.when or self.from_step is not None):
            raise ModelError(
                f"intervention {self.name!r} acts on prompts, and its schedule is one of tokens "
                "that are generated: give it other positions, or turns"
            )

    def acts_on_prompt(
        self, new_from: int, end: int, *, turn: int, first_step: int
    ) -> tuple[int, int] | None:
        """The part that it acts on of what a prompt has from `new_from` to its end, half-open.

        Behind `first_step` tokens of the turn; zero where it begins.
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
        """Whether it acts on the token that was sampled last, of which the state is given."""
        if not self._in_turn(turn):
            return False
        # Asked after each token, so that one that remembers is not shown a part of them.
        holds = self.when is None or (state is not None and bool(self.when(state)))
        start, end = self._bounds()
        return (
            holds
            and (self.positions in _BEHIND_PROMPT or not isinstance(self.positions, str))
            and start <= position
            and (end is None or position < end)
            and (self.from_step is None or step >= self.from_step)
        )

    def event(
        self, *, layers: tuple[str, ...], clear_cache: bool, turn: int | None
    ) -> InterventionRequested:
        """What is recorded where it is asked for; `layers` have their full names."""
        return InterventionRequested(
            name=self.name,
            kind=self.kind,
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
        """The sum of its tensor's bytes; empty without a tensor."""
        if self.tensor is None:
            return ""
        return hashlib.sha256(tensor_bytes(self.tensor)).hexdigest()

    def _in_turn(self, turn: int) -> bool:
        if self.turns is None:
            return True
        first, last = self.turns
        return first <= turn and (last is None or turn <= last)

    def _bounds(self) -> tuple[int, int | None]:
        """The absolute positions outside of which it never acts, half-open."""
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
        """Only what limits it; empty for always."""
        described: dict[str, Any] = {}
        if self.from_step is not None:
            described["from_step"] = self.from_step
        if self.turns is not None:
            described["turns"] = list(self.turns)
        if self.when is not None:
            described["when"] = getattr(self.when, "__qualname__", type(self.when).__qualname__)
        return described


def is_rebuilt(event: InterventionRequested) -> bool:
    """Whether the event says all that is needed: no predicate can be recorded."""
    return "when" not in event.schedule


def rebuilt(event: InterventionRequested, tensor: torch.Tensor | None) -> Intervention:
    """What was asked for, from what was recorded of it."""
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


def _tensor(given: torch.Tensor, *, axes: int) -> torch.Tensor:
    """Our own float32 copy. Raises ModelError for numbers that are none."""
    if not isinstance(given, torch.Tensor) or not given.is_floating_point():
        raise ModelError(f"a tensor of floating numbers is needed, not {type(given).__name__}")
    if given.dim() != axes or not given.numel():
        shape = "(width,)" if axes == 1 else "(positions, width)"
        raise ModelError(f"a tensor of shape {shape} is needed, not {tuple(given.shape)}")
    own = given.detach().to("cpu", torch.float32, copy=True).contiguous()
    if not bool(own.isfinite().all()):
        raise ModelError("the tensor holds numbers that are not finite")
    return own


def _pair(name: str, value: Any) -> tuple[Any, Any]:
    if not isinstance(value, tuple | list) or len(value) != 2:
        raise ModelError(f"{name} are a pair of numbers, not {value!r}")
    return value[0], value[1]
