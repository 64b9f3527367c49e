"""Where in the sequence the forward under way computes: what hooks inside a model cannot see."""

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

from torch import nn

PREFILL, DECODE, RECOMPUTED = "prefill", "decode", "recomputed"


@dataclass(slots=True)
class ForwardPositions:
    """The forward under way computes the absolute positions `start` to `end`, half-open.

    `source` is `prefill`, `decode` or `recomputed`, and `turn` the turn that it is made for. Both
    are set by whoever drives the model; the positions count themselves.
    """

    start: int = 0
    end: int = 0
    source: str = PREFILL
    turn: int = 0

    @property
    def length(self) -> int:
        return self.end - self.start


class ReadOnlyHook:
    """A hook of ours that looks and changes nothing, whatever `look` returns.

    By its class it is told from a stranger's: it is no part of the key of a cache.
    """

    __slots__ = ("_look", "counts", "free")

    def __init__(
        self,
        look: Callable[..., object],
        *,
        counts: ForwardPositions | None = None,
        free: AbstractContextManager[Any] | None = None,
    ) -> None:
        """`counts` is the forward that it keeps true, where it does; whoever enters `free` may
        change it."""
        self._look = look
        self.counts = counts
        self.free = free or nullcontext()

    def __call__(self, *args: Any) -> Any:
        self._look(*args)


class SteeringHook(ReadOnlyHook):
    """One of ours whose output takes the place of the module's.

    What it changed is told by the marks of a cache's ids, so it is no part of the key either.
    """

    __slots__ = ()

    def __call__(self, *args: Any) -> Any:
        return self._look(*args)


def foreign_hooks(module: nn.Module) -> list[int]:
    """The numbers of the hooks of a module that may change what comes out of it: not ours.

    torch uses no number twice.
    """
    return [
        number
        for hooks in (module._forward_hooks, module._forward_pre_hooks)
        for number, hook in hooks.items()
        if not isinstance(hook, ReadOnlyHook)
    ]


@contextmanager
def track_positions(
    model: Any, forward: ForwardPositions | None = None
) -> Iterator[ForwardPositions]:
    """Keep `forward` true while the model runs: each call goes on where the last one ended.

    `forward.end` is where the first call begins: zero, or as many tokens as the cache holds. Only
    calls of one sequence, with ids, are counted. It is a hook of the model itself, and comes before
    those of its layers.
    """
    counted = forward or ForwardPositions()
    free = threading.RLock()

    def advance(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        ids = kwargs.get("input_ids", args[0] if args else None)
        if ids is None:
            ids = kwargs["inputs_embeds"]
        with free:
            counted.start, counted.end = counted.end, counted.end + int(ids.shape[1])

    hook = ReadOnlyHook(advance, counts=counted, free=free)
    handle = model.register_forward_pre_hook(hook, with_kwargs=True, prepend=True)
    try:
        yield counted
    finally:
        handle.remove()


@contextmanager
def recomputing(model: Any, *, turn: int, start: int = 0) -> Iterator[ForwardPositions]:
    """Forwards in here go through the sequence anew, beside those that others count.

    Whoever counts sees them as `recomputed`, from the position `start` on, and finds its own count
    as it was. A tool that took too long is left behind in its thread: whoever counts waits with the
    next forward until the model is free again.
    """
    hooks = [
        hook
        for hook in model._forward_pre_hooks.values()
        if isinstance(hook, ReadOnlyHook) and hook.counts is not None
    ]
    beside = ForwardPositions(start=start, end=start, source=RECOMPUTED, turn=turn)
    with ExitStack() as stack:
        for hook in hooks:
            stack.enter_context(hook.free)
            stack.enter_context(_set_aside(hook.counts, start))
        yield stack.enter_context(track_positions(model, beside))


@contextmanager
def _set_aside(counted: ForwardPositions | None, start: int) -> Iterator[None]:
    assert counted is not None
    before = counted.start, counted.end, counted.source
    counted.start, counted.end, counted.source = start, start, RECOMPUTED
    try:
        yield
    finally:
        counted.start, counted.end, counted.source = before
