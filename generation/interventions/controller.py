"""The interventions of a generator: which are requested, and where in the stream each acts."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from typing import Any

import torch

from tokentape.generation.cache import common_prefix_length, salt_ids
from tokentape.generation.callbacks import GenerationState, StateObserver
from tokentape.generation.errors import ModelError
from tokentape.generation.history.prompt import OWN_PROMPT, Prompt
from tokentape.generation.hooks.forward_positions import ForwardPositions, track_positions
from tokentape.generation.hooks.layers import find_layer
from tokentape.generation.hooks.model_use import tool_use
from tokentape.generation.interventions.hooks import apply_interventions
from tokentape.generation.interventions.intervention import (
    Intervention,
    can_rebuild,
    rebuild_intervention,
)
from tokentape.generation.interventions.tensors import tensor_from_bytes, tensor_to_bytes
from tokentape.generation.interventions.vectors import output_widths
from tokentape.recorder import Recorder
from tokentape.recorder.events import (
    InterventionApplied,
    InterventionDescribed,
    InterventionRemoved,
    InterventionRequested,
    InterventionWithdrawn,
)
from tokentape.recorder.near_names import nearest
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
class _RequestedIntervention:
    intervention: Intervention
    event: InterventionRequested

    def applied_at(self, turn: int, position: int) -> InterventionApplied:
        """Return the event that records where it begins to act."""
        described = {field.name: getattr(self.event, field.name) for field in _DESCRIBED}
        return InterventionApplied(turn=turn, position=position, **described)

    def acts_in(self, range_: ActiveRange) -> bool:
        """Return whether this acts in the range, and not an earlier one with the same name."""
        applied = range_.applied
        here = self.applied_at(applied.turn, applied.position)
        return here == applied and range_.tensor_start == self.event.tensor_start


@dataclass(frozen=True, slots=True, kw_only=True)
class InterventionPlan:
    """The interventions that act on a prompt."""

    turn: int
    first_step: int
    """Tokens that the turn has generated before this prompt: 0 in its first round."""
    active: ActiveInterventions
    """The active ranges of the stream, with `changes` applied."""
    changes: tuple[Change, ...] = ()
    """The events that the turn records, in order."""


class InterventionController:
    """Decides and records from which position on each requested intervention acts.

    A request changes new positions only: positions computed earlier keep the interventions that
    were active then, unless the request is `from_start`. `active` equals the projection of the
    recorded events. `thread` is the id of the thread that runs turns.
    """

    def __init__(self, model: Any, recorder: Recorder | None) -> None:
        self.active = ActiveInterventions()
        self._model = model
        self._recorder = recorder
        self._requested: dict[str, _RequestedIntervention] = {}
        self._from_start: set[str] = set()
        self._tensors: dict[str, torch.Tensor] = {}
        self._stored_tensors: set[str] = set()
        self._unrecorded: list[Request] = []
        self.thread = threading.get_ident()
        self._turn, self._first_step = 0, 0

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the requested interventions."""
        return tuple(self._requested)

    def request(
        self, intervention: Intervention, *, from_start: bool, turn: int | None = None
    ) -> None:
        """Apply an intervention to new positions, starting with the next prompt.

        With `from_start` it acts on that whole prompt, which is then computed again. `turn` is the
        turn under way, if a tool makes the request. Before the run has begun the request is
        pending and recorded with the first turn.

        Raise ModelError for a name in use and for a vector that does not fit the layers, ToolError
        for an unknown layer.
        """
        if not isinstance(intervention, Intervention):
            raise ModelError(
                f"an Intervention is needed, not a {type(intervention).__name__}: make one with "
                "Intervention.steer, ablate, scale, patch or placebo"
            )
        name = intervention.name
        if name in self._requested:
            raise ModelError(f"there is an intervention {name!r} already: withdraw it first")
        layers = tuple(
            dict.fromkeys(find_layer(self._model, each)[0] for each in intervention.layers)
        )
        _check_widths(intervention, output_widths(self._model, layers))
        event = intervention.event(layers=layers, clear_cache=from_start, turn=turn)
        if intervention.tensor is not None:
            self._tensors[event.tensor_sha256] = intervention.tensor
        self._requested[name] = _RequestedIntervention(intervention, event)
        self._add_request(event)

    def withdraw(self, name: str, *, from_start: bool, turn: int | None = None) -> None:
        """Stop applying an intervention to new positions. Raise ModelError for an unknown name.

        `from_start` and `turn` as in `request`.
        """
        if name not in self._requested:
            known = ", ".join(map(repr, self._requested)) or "none"
            near = nearest(name, self._requested)
            raise ModelError(f"there is no intervention {name!r}{near}; there is {known}")
        del self._requested[name]
        self._add_request(InterventionWithdrawn(name=name, clear_cache=from_start, turn=turn))

    def begin_round(self) -> None:
        """Note that the calling thread runs turns, and record requests of other threads."""
        self.thread = threading.get_ident()
        self.record_requests()

    def record_requests(self) -> None:
        """Record the pending requests if the run has begun."""
        while self._recorder is not None and self._recorder.is_active and self._unrecorded:
            request = self._unrecorded[0]
            if isinstance(request, InterventionRequested):
                self._store_tensor(request.tensor_sha256)
            self._recorder.record(request)
            del self._unrecorded[0]

    def restore(
        self,
        active: ActiveInterventions,
        requested: RequestedInterventions,
        read_blob: ReadBlob | None,
    ) -> None:
        """Restore the interventions that a recording ends with, their tensors from its blobs.

        A request made in this process wins over a recorded one with its name. Raise ModelError for
        a missing tensor, and for a recorded request with a predicate, which no event can hold.
        """
        self.active = active
        for each in (*requested.requests, *(each.applied for each in active.ranges)):
            sha256 = each.tensor_sha256
            if sha256 and sha256 not in self._tensors:
                if read_blob is None:
                    raise ModelError(f"the tensor of intervention {each.name!r} was not recorded")
                self._tensors[sha256] = tensor_from_bytes(read_blob(sha256), sha256)
        requested_here = set(self._requested)
        for request in requested.requests:
            if request.name in requested_here:
                continue
            if not can_rebuild(request):
                raise ModelError(
                    f"a predicate decides where intervention {request.name!r} acts, and events "
                    "cannot hold it: request the intervention again before the run continues"
                )
            intervention = rebuild_intervention(request, self._tensors.get(request.tensor_sha256))
            _check_widths(intervention, output_widths(self._model, request.layers))
            self._requested[request.name] = _RequestedIntervention(intervention, request)
        self._from_start |= set(requested.from_start) - requested_here

    def resume_turn(self, turn: Turn, prompt: Prompt, system_ids: Sequence[int]) -> None:
        """Continue an interrupted turn: record the changes that its process may not have recorded.

        A predicate is not called again for the last token; its recorded decision holds.
        """
        first_step = turn.first_step
        plan = InterventionPlan(turn=turn.number, first_step=first_step, active=self.active)
        if not turn.tokens:
            self.begin_turn(self._with_due_changes(plan, prompt, system_ids))
            return
        self.begin_turn(plan)
        self._decide_token(turn.tokens[-1].position, turn.tokens[-1].step, state=None)

    def restart_stream(self, tokens: int) -> None:
        """Start a new stream with a system prompt of so many tokens."""
        self.active = self.active.restarted(tokens)

    def plan_turn(
        self, prompt: Prompt, system_ids: Sequence[int], *, turn: int, first_step: int
    ) -> InterventionPlan:
        """Return what will act on the prompt of the next round; the controller does not change."""
        active = self.active
        if prompt.pruning is not None:
            active = active.pruned(prompt.pruning.removed_tokens)
        active = active.rewritten(prompt.kept_tokens)
        plan = InterventionPlan(turn=turn, first_step=first_step, active=active)
        return self._with_due_changes(plan, prompt, system_ids)

    def begin_turn(self, plan: InterventionPlan) -> None:
        """Make a plan effective and record its changes."""
        self.active = plan.active
        self._turn, self._first_step = plan.turn, plan.first_step
        self._from_start.clear()
        for change in plan.changes:
            self._record(change)

    @contextmanager
    def intervene_from(self, cached_tokens: int) -> Iterator[None]:
        """Intervene in the model's forwards; the first one begins at position `cached_tokens`."""
        if not self._requested and not self.active.ranges:
            yield
            return
        layers = [
            layer
            for event in (
                *(each.event for each in self._requested.values()),
                *(each.applied for each in self.active.ranges),
            )
            for layer in event.layers
        ]
        forward = ForwardPositions(end=cached_tokens, turn=self._turn)
        with (
            track_positions(self._model, forward),
            apply_interventions(
                self._model,
                lambda: self.active.ranges,
                forward,
                self._tensors,
                layers=layers,
            ),
        ):
            yield

    @contextmanager
    def with_recorded_interventions(self) -> Iterator[None]:
        """Recompute the conversation in here as at first, for example for a tool.

        Each position gets the interventions that were active when it was first computed.
        """
        with tool_use(self._model), self.intervene_from(0):
            yield
        self.record_requests()

    def observe_tokens(self, observer: StateObserver | None) -> StateObserver | None:
        """Return an observer that calls the given one and then decides what acts on the token."""
        if not self._requested and not self.active.ranges:
            return observer

        def observe(state: GenerationState) -> None:
            if observer is not None:
                observer(state)
            self._decide_token(state.input_ids.shape[1] - 1, state.step, state)

        return observe

    def salt_ids(self, ids: Sequence[int]) -> tuple[int, ...]:
        """Return the ids salted with the interventions that act on each, as cache keys."""
        return salt_ids(ids, self.active.ranges)

    def _with_due_changes(
        self, plan: InterventionPlan, prompt: Prompt, system_ids: Sequence[int]
    ) -> InterventionPlan:
        for name in self._names_of(plan.active):
            new_from = 0 if name in self._from_start else _new_from(prompt, system_ids)
            for change in self._due(plan.active, name, (new_from, len(prompt.ids)), plan):
                active = _after(plan.active, change)
                plan = replace(plan, active=active, changes=(*plan.changes, change))
        return plan

    def _decide_token(self, position: int, step: int, state: GenerationState | None) -> None:
        """Record which interventions begin or stop to act with the token sampled last.

        `state` is None for a token of an interrupted turn: predicates are not called then.
        """
        turn = self._turn
        for name in self._names_of(self.active):
            request = self._requested.get(name)
            if request is not None and request.intervention.when is not None and state is None:
                continue
            if request is not None and not request.intervention.acts_on_token(
                position, turn=turn, step=step, state=state
            ):
                request = None
            open_ranges = [each for each in self._ranges_of(name) if each.end is None]
            as_requested = [request is not None and request.acts_in(each) for each in open_ranges]
            if as_requested == ([] if request is None else [True]):
                continue
            change: Change
            if request is None:
                change = InterventionRemoved(turn=turn, position=position, name=name)
            else:
                change = request.applied_at(turn, position)
            self.active = _after(self.active, change)
            self._record(change)

    def _due(
        self, active: ActiveInterventions, name: str, new: tuple[int, int], plan: InterventionPlan
    ) -> list[Change]:
        """Return the changes after which this intervention acts on the new positions as requested.

        `new` is a half-open range of positions.
        """
        request, turn = self._requested.get(name), plan.turn
        wanted: tuple[int, int] | None = None
        if request is not None:
            wanted = request.intervention.acts_on_prompt(
                *new, turn=turn, first_step=plan.first_step
            )
        present = [each for each in active.ranges if each.name == name and each.within(*new)]
        as_requested = all(request is not None and request.acts_in(each) for each in present)
        if as_requested and active.within(name, *new) == ([] if wanted is None else [wanted]):
            return []
        changes: list[Change] = []
        if active.within(name, new[0], new[1] if wanted is None else wanted[0]):
            changes.append(InterventionRemoved(turn=turn, position=new[0], name=name))
        if wanted is not None and request is not None:
            changes.append(request.applied_at(turn, wanted[0]))
            if wanted[1] < new[1]:
                changes.append(InterventionRemoved(turn=turn, position=wanted[1], name=name))
        return changes

    def _ranges_of(self, name: str) -> list[ActiveRange]:
        return [each for each in self.active.ranges if each.name == name]

    def _names_of(self, active: ActiveInterventions) -> list[str]:
        """Return the names that are requested or still act somewhere."""
        return list(dict.fromkeys([*self._requested, *(each.name for each in active.ranges)]))

    def _record(self, change: Change) -> None:
        if self._recorder is None:
            return
        if isinstance(change, InterventionApplied):
            self._store_tensor(change.tensor_sha256)
        self._recorder.record(change)

    def _add_request(self, request: Request) -> None:
        self._from_start -= {request.name}
        if request.clear_cache:
            self._from_start.add(request.name)
        self._unrecorded.append(request)
        # Tools run in other threads, but only the thread that runs turns may record.
        if threading.get_ident() == self.thread:
            self.record_requests()

    def _store_tensor(self, sha256: str) -> None:
        if self._recorder is not None and sha256 and sha256 not in self._stored_tensors:
            self._recorder.put_blob(sha256, tensor_to_bytes(self._tensors[sha256]))
            self._stored_tensors.add(sha256)


def _after(active: ActiveInterventions, change: Change) -> ActiveInterventions:
    if isinstance(change, InterventionApplied):
        return active.applied(change)
    return active.removed(change)


def _new_from(prompt: Prompt, system_ids: Sequence[int]) -> int:
    """Return the first position of a prompt that is not part of the stream yet."""
    if prompt.history_reason == OWN_PROMPT:
        return common_prefix_length(system_ids, prompt.ids)
    return prompt.kept_tokens - sum(len(message.ids) for message in prompt.messages)


def _check_widths(intervention: Intervention, widths: dict[str, int]) -> None:
    """Raise ModelError if dimensions or tensor do not fit the layers' widths."""
    dimensions, tensor = intervention.dimensions, intervention.tensor
    for layer, width in widths.items():
        if dimensions and max(dimensions) >= width:
            raise ModelError(
                f"intervention {intervention.name!r} changes dimension {max(dimensions)}, but the "
                f"output of {layer} has width {width}"
            )
        changed = len(dimensions) or width
        if tensor is not None and tensor.shape[-1] != changed:
            of_width = f"{changed} of {width}" if dimensions else f"{width}"
            raise ModelError(
                f"intervention {intervention.name!r} has a vector of width {tensor.shape[-1]}, but "
                f"changes {of_width} dimensions of {layer}"
            )
