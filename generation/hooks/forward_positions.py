"""The positions in the sequence that the current forward computes, for hooks inside the model."""

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from tokentape.generation.hooks.hook_types import ReadOnlyHook
from tokentape.generation.hooks.model_use import acts_now, joined_use
from tokentape.recorder.events import ActivationSource

PREFILL, DECODE, RECOMPUTED = ActivationSource


@dataclass(slots=True)
class ForwardPositions:
    """The absolute positions `start` to `end` (half-open) of the current forward.

    `track_positions` updates `start` and `end`. The caller of the model sets the other fields.
    """

    start: int = 0
    end: int = 0
    source: ActivationSource = PREFILL
    turn: int = 0

    @property
    def length(self) -> int:
        """Number of positions of the forward."""
        return self.end - self.start


class _PositionHook(ReadOnlyHook):
    """The hook that updates `positions`. Any other change of them requires `lock`."""

    __slots__ = ("lock", "positions")

    def __init__(
        self,
        call: Callable[..., object],
        positions: ForwardPositions,
        lock: AbstractContextManager[Any],
    ) -> None:
        super().__init__(call)
        self.positions = positions
        self.lock = lock


@contextmanager
def track_positions(
    model: Any, forward: ForwardPositions | None = None
) -> Iterator[ForwardPositions]:
    """Within this context, keep `forward` up to date: each call starts where the last one ended.

    Set `forward.end` to the position of the first call: zero, or the number of cached tokens. Only
    calls with one sequence of ids are counted. The pre-hook is on the model itself, so it runs
    before the hooks of its layers.
    """
    positions = forward or ForwardPositions()
    lock = threading.RLock()

    def advance(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        ids = kwargs.get("input_ids", args[0] if args else None)
        if ids is None:
            ids = kwargs["inputs_embeds"]
        with lock:
            positions.start, positions.end = positions.end, positions.end + int(ids.shape[1])

    with joined_use(model):
        hook = _PositionHook(advance, positions, lock)
        handle = model.register_forward_pre_hook(hook, with_kwargs=True, prepend=True)
        try:
            yield positions
        finally:
            handle.remove()


@contextmanager
def recomputing(model: Any, *, turn: int, start: int = 0) -> Iterator[ForwardPositions]:
    """Within this context, forwards recompute the sequence from the position `start`.

    Enclosing `track_positions` contexts see these forwards as `recomputed`, and their positions are
    restored afterwards. Their locks are held meanwhile: the thread of a tool that exceeded its time
    limit may still be recomputing, and the next forward then waits for it.
    """
    recomputed = ForwardPositions(start=start, end=start, source=RECOMPUTED, turn=turn)
    with joined_use(model), ExitStack() as stack:
        hooks = [each for each in _position_hooks(model) if acts_now(each.scope)]
        for hook in hooks:
            stack.enter_context(hook.lock)
            stack.enter_context(_replaced(hook.positions, start))
        yield stack.enter_context(track_positions(model, recomputed))


def _position_hooks(model: Any) -> list[_PositionHook]:
    return [hook for hook in model._forward_pre_hooks.values() if isinstance(hook, _PositionHook)]


@contextmanager
def _replaced(positions: ForwardPositions, start: int) -> Iterator[None]:
    saved = positions.start, positions.end, positions.source
    positions.start, positions.end, positions.source = start, start, RECOMPUTED
    try:
        yield
    finally:
        positions.start, positions.end, positions.source = saved
