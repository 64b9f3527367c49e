"""The interventions of a generator: what is asked for, and where it acts in the stream."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from typing import Any

import torch

from tokentape.generation.cache import common_prefix_length, salt_ids
from tokentape.generation.callbacks import GenerationState, StateObserver
from tokentape.generation.errors import ModelError
from tokentape.generation.history.conversation import OWN_PROMPT, Prompt
from tokentape.generation.hooks.forward_positions import ForwardPositions, track_positions
from tokentape.generation.hooks.layers import find_layer
from tokentape.generation.interventions.hooks import intervening
from tokentape.generation.interventions.intervention import Intervention, is_rebuilt, rebuilt
from tokentape.generation.interventions.tensors import tensor_bytes, tensor_from
from tokentape.generation.interventions.vectors import widths_of
from tokentape.recorder import Recorder
from tokentape.recorder.events import (
    InterventionApplied,
    InterventionRemoved,
    InterventionRequested,
    InterventionWithdrawn,
)
from tokentape.recorder.events.inside import InterventionDescribed
from tokentape.recorder.projections import (
    ActiveInterventions,
    ActiveRange,
    RequestedInterventions,
    Turn,
)

ReadBlob = Callable[[str], bytes]
Change = InterventionApplied | InterventionRemoved
Request = InterventionRequested | InterventionWithdrawn
_DESCRIBED = fields(InterventionDescribed)


@dataclass(frozen=True, slots=True)
class _Asked:
    intervention: Intervention
    event: InterventionRequested

    def at(self, turn: int, position: int) -> InterventionApplied:
        """As it is recorded where it begins to act."""
        described = {field.name: getattr(self.event, field.name) for field in _DESCRIBED}
        return InterventionApplied(turn=turn, position=position, **described)

    def is_in(self, range_: ActiveRange) -> bool:
        """Whether what acts there is this, and not another one of that name from before."""
        applied = range_.applied
        here = self.at(applied.turn, applied.position)
        return here == applied and range_.tensor_start == self.event.tensor_start


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What acts on a prompt, and the changes by which it comes to do so."""

    turn: int
    first_step: int
    acting: ActiveInterventions
    changes: tuple[Change, ...] = ()


class InterventionController:
    """Decides, turn by turn and token by token, what acts from which position on, and records that.

    What was computed stays as it was: only positions that are new get what is asked for now.
    `acting` is the same as the projection of the recorded events. `thread` is the one that runs
    turns.
    """

    def __init__(self, model: Any, recorder: Recorder | None) -> None:
        self.acting = ActiveInterventions()
        self._model = model
        self._recorder = recorder
        self._asked: dict[str, _Asked] = {}
        self._from_start: set[str] = set()
        self._tensors: dict[str, torch.Tensor] = {}
        self._kept: set[str] = set()
        self._unrecorded: list[Request] = []
        self.thread = threading.get_ident()
        self._turn, self._first_step = 0, 0

    @property
    def names(self) -> tuple[str, ...]:
        """Those that are asked for."""
        return tuple(self._asked)

    def ask(self, intervention: Intervention, *, from_start: bool, turn: int | None = None) -> None:
        """It is to act from the next turn on; with `from_start` on all of that turn's prompt.

        `turn` is the one that pauses meanwhile. What a run that has not begun cannot record is
        recorded with its next turn.

        Raises ModelError for a name that is in use and for what does not fit the model, and
        ToolError for a layer that it does not have.
        """
        if not isinstance(intervention, Intervention):
            raise ModelError(
                f"an Intervention is needed, not a {type(intervention).__name__}: make one with "
                "Intervention.steer and its like"
            )
        name = intervention.name
        if name in self._asked:
            raise ModelError(f"there is an intervention {name!r} already: withdraw it first")
        layers = tuple(
            dict.fromkeys(find_layer(self._model, each)[0] for each in intervention.layers)
        )
        _refuse_misfit(intervention, widths_of(self._model, layers))
        event = intervention.event(layers=layers, clear_cache=from_start, turn=turn)
        if intervention.tensor is not None:
            self._tensors[event.tensor_sha256] = intervention.tensor
        self._asked[name] = _Asked(intervention, event)
        self._request(event)

    def withdraw(self, name: str, *, from_start: bool, turn: int | None = None) -> None:
        """It is to act no more from the next turn on. Raises ModelError where there is none."""
        if name not in self._asked:
            known = ", ".join(map(repr, self._asked)) or "none"
            raise ModelError(f"there is no intervention {name!r}; there is {known}")
        del self._asked[name]
        self._request(InterventionWithdrawn(name=name, clear_cache=from_start, turn=turn))

    def begin_part(self) -> None:
        """The calling thread is the one that runs turns; what was asked elsewhere is recorded."""
        self.thread = threading.get_ident()
        self.record_requests()

    def record_requests(self) -> None:
        """Record what was asked for, as soon as there is a run that takes events."""
        while self._recorder is not None and self._recorder.goes_on and self._unrecorded:
            request = self._unrecorded[0]
            if isinstance(request, InterventionRequested):
                self._keep_tensor(request.tensor_sha256)
            self._recorder.record(request)
            del self._unrecorded[0]

    def restore(
        self, acting: ActiveInterventions, asked: RequestedInterventions, read_blob: ReadBlob | None
    ) -> None:
        """Go on behind what another process recorded: what acted and is asked for, with tensors.

        One of a name that is asked for already is not asked for again. Raises ModelError for a
        tensor that is not there, and for what a predicate decides on.
        """
        self.acting = acting
        for each in (*asked.requests, *(each.applied for each in acting.ranges)):
            sha256 = each.tensor_sha256
            if sha256 and sha256 not in self._tensors:
                if read_blob is None:
                    raise ModelError(f"the tensor of intervention {each.name!r} is not at hand")
                self._tensors[sha256] = tensor_from(read_blob(sha256), sha256)
        own = set(self._asked)
        for request in asked.requests:
            if request.name in own:
                continue
            if not is_rebuilt(request):
                raise ModelError(
                    f"a predicate decides where intervention {request.name!r} acts, and no event "
                    "holds that: ask for it again before the run goes on"
                )
            intervention = rebuilt(request, self._tensors.get(request.tensor_sha256))
            _refuse_misfit(intervention, widths_of(self._model, request.layers))
            self._asked[request.name] = _Asked(intervention, request)
        self._from_start |= set(asked.from_start) - own

    def resume(self, turn: Turn, prompt: Prompt, system_ids: Sequence[int]) -> None:
        """Go on in a turn that was cut off: decide again what may not have been recorded.

        A predicate is not asked again: what it said of the last token stays, if that was recorded.
        """
        first_step = turn.first_step
        plan = Plan(turn=turn.number, first_step=first_step, acting=self.acting)
        if not turn.tokens:
            self.begin(self._planned(plan, prompt, system_ids))
            return
        self.begin(plan)
        self._decide_token(turn.tokens[-1].position, turn.tokens[-1].step, state=None)

    def restarted(self, tokens: int) -> None:
        """A system prompt begins another stream."""
        self.acting = self.acting.restarted(tokens)

    def plan(
        self, prompt: Prompt, system_ids: Sequence[int], *, turn: int, first_step: int
    ) -> Plan:
        """What is to act on the prompt of the coming turn, or part of a turn. Changes nothing."""
        acting = self.acting
        if prompt.pruning is not None:
            acting = acting.pruned(prompt.pruning.removed_tokens)
        acting = acting.rewritten(prompt.kept_tokens)
        plan = Plan(turn=turn, first_step=first_step, acting=acting)
        return self._planned(plan, prompt, system_ids)

    def begin(self, plan: Plan) -> None:
        """The turn has begun: record what acts in it from where on."""
        self.acting = plan.acting
        self._turn, self._first_step = plan.turn, plan.first_step
        self._from_start.clear()
        for change in plan.changes:
            self._record(change)

    @contextmanager
    def acting_from(self, held_tokens: int) -> Iterator[None]:
        """While it lasts the model is intervened with; its next forward is behind `held_tokens`."""
        if not self._asked and not self.acting.ranges:
            yield
            return
        layers = [
            layer
            for event in (
                *(each.event for each in self._asked.values()),
                *(each.applied for each in self.acting.ranges),
            )
            for layer in event.layers
        ]
        forward = ForwardPositions(end=held_tokens, turn=self._turn)
        with (
            track_positions(self._model, forward),
            intervening(
                self._model,
                lambda: self.acting.ranges,
                forward,
                self._tensors,
                layers=layers,
            ),
        ):
            yield

    @contextmanager
    def as_lived(self) -> Iterator[None]:
        """While it lasts the conversation is forwarded as it was, by a tool perhaps."""
        with self.acting_from(0):
            yield
        self.record_requests()

    def observing(self, observer: StateObserver | None) -> StateObserver | None:
        """The caller's observer, and behind it the decision what acts on the token it was shown."""
        if not self._asked and not self.acting.ranges:
            return observer

        def observe(state: GenerationState) -> None:
            if observer is not None:
                observer(state)
            self._decide_token(state.input_ids.shape[1] - 1, state.step, state)

        return observe

    def salt_ids(self, ids: Sequence[int]) -> tuple[int, ...]:
        """The ids of the stream as the cache is given them: with what acts on each."""
        return salt_ids(ids, self.acting.ranges)

    def _planned(self, plan: Plan, prompt: Prompt, system_ids: Sequence[int]) -> Plan:
        for name in self._names_of(plan.acting):
            new_from = 0 if name in self._from_start else _new_from(prompt, system_ids)
            for change in self._due(plan.acting, name, (new_from, len(prompt.ids)), plan):
                acting = _after(plan.acting, change)
                plan = replace(plan, acting=acting, changes=(*plan.changes, change))
        return plan

    def _decide_token(self, position: int, step: int, state: GenerationState | None) -> None:
        """Record what begins and what ceases to act with the token that was sampled last."""
        turn = self._turn
        for name in self._names_of(self.acting):
            asked = self._asked.get(name)
            if asked is not None and asked.intervention.when is not None and state is None:
                continue
            if asked is not None:
                acts = asked.intervention.acts_on_token(position, turn=turn, step=step, state=state)
                asked = asked if acts else None
            open_ = [each for each in self._ranges_of(name) if each.end is None]
            as_asked = [asked is not None and asked.is_in(each) for each in open_]
            if as_asked == ([] if asked is None else [True]):
                continue
            change: Change
            if asked is None:
                change = InterventionRemoved(turn=turn, position=position, name=name)
            else:
                change = asked.at(turn, position)
            self.acting = _after(self.acting, change)
            self._record(change)

    def _due(
        self, acting: ActiveInterventions, name: str, new: tuple[int, int], plan: Plan
    ) -> list[Change]:
        """What makes the one of that name act on the positions that are `new` as it is to."""
        asked, turn = self._asked.get(name), plan.turn
        wanted: tuple[int, int] | None = None
        if asked is not None:
            wanted = asked.intervention.acts_on_prompt(*new, turn=turn, first_step=plan.first_step)
        there = [each for each in acting.ranges if each.name == name and each.within(*new)]
        as_asked = all(asked is not None and asked.is_in(each) for each in there)
        if as_asked and acting.within(name, *new) == ([] if wanted is None else [wanted]):
            return []
        changes: list[Change] = []
        if acting.within(name, new[0], new[1] if wanted is None else wanted[0]):
            changes.append(InterventionRemoved(turn=turn, position=new[0], name=name))
        if wanted is not None and asked is not None:
            changes.append(asked.at(turn, wanted[0]))
            if wanted[1] < new[1]:
                changes.append(InterventionRemoved(turn=turn, position=wanted[1], name=name))
        return changes

    def _ranges_of(self, name: str) -> list[ActiveRange]:
        return [each for each in self.acting.ranges if each.name == name]

    def _names_of(self, acting: ActiveInterventions) -> list[str]:
        """Those that are asked for, and those that still act somewhere."""
        return list(dict.fromkeys([*self._asked, *(each.name for each in acting.ranges)]))

    def _record(self, change: Change) -> None:
        if self._recorder is None:
            return
        if isinstance(change, InterventionApplied):
            self._keep_tensor(change.tensor_sha256)
        self._recorder.record(change)

    def _request(self, request: Request) -> None:
        self._from_start -= {request.name}
        if request.clear_cache:
            self._from_start.add(request.name)
        self._unrecorded.append(request)
        # A tool asks in a thread of its own, and a store takes events from one.
        if threading.get_ident() == self.thread:
            self.record_requests()

    def _keep_tensor(self, sha256: str) -> None:
        if self._recorder is not None and sha256 and sha256 not in self._kept:
            self._recorder.put_blob(sha256, tensor_bytes(self._tensors[sha256]))
            self._kept.add(sha256)


def _after(acting: ActiveInterventions, change: Change) -> ActiveInterventions:
    if isinstance(change, InterventionApplied):
        return acting.applied(change)
    return acting.removed(change)


def _new_from(prompt: Prompt, system_ids: Sequence[int]) -> int:
    """The first position of a prompt that the model has not lived through before."""
    if prompt.history_reason == OWN_PROMPT:
        return common_prefix_length(system_ids, prompt.ids)
    return prompt.kept_tokens - sum(len(message.ids) for message in prompt.messages)


def _refuse_misfit(intervention: Intervention, widths: dict[str, int]) -> None:
    """Raise ModelError for numbers that are not those of the layers."""
    dimensions, tensor = intervention.dimensions, intervention.tensor
    for layer, width in widths.items():
        if dimensions and max(dimensions) >= width:
            raise ModelError(
                f"{layer} gives {width} numbers, and intervention {intervention.name!r} changes "
                f"the one with number {max(dimensions)}"
            )
        changed = len(dimensions) or width
        if tensor is not None and tensor.shape[-1] != changed:
            what = f"{changed} of {width} dimensions" if dimensions else f"{width} numbers"
            raise ModelError(
                f"intervention {intervention.name!r} has a vector of {tensor.shape[-1]} numbers, "
                f"and {what} are changed in {layer}"
            )
