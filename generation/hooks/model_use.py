"""Use of one model by several threads, and which hooks act on a forward.

A turn needs its model alone: hooks, kernels and caches belong to its forwards. Each use of a model
therefore takes the model's lock, and hooks act only on forwards of the use that installed them.
Both follow context variables and not threads: a tool runs in a thread of its own, with the context
of the turn that called it.
"""

import threading
import weakref
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from tokentape.generation.numerics.attention import cuda_device, repeatable_attention


@dataclass(frozen=True, slots=True, eq=False)
class HookScope:
    """A use of a model, by its identity. Hooks that are installed in it act on its forwards."""

    observes_uses: bool
    """Whether its hooks also act on uses that begin within it."""


@dataclass(frozen=True, slots=True)
class _Current:
    """What the current context does with models."""

    holder: object | None = None
    """Identifies the context in which locks are held; None if none is."""
    scopes: tuple[HookScope, ...] = ()
    """The scopes whose hooks act, the innermost last."""
    between_forwards: bool = False
    """Whether code of the user runs between the forwards of these scopes."""


_OUTSIDE = _Current()
_current: ContextVar[_Current] = ContextVar("tokentape_model_use", default=_OUTSIDE)


@contextmanager
def exclusive_use(model: Any) -> Iterator[None]:
    """Within this context, use a model alone, without the hooks of a turn that it is called from.

    Attention is computed by kernels that give the same bits each time; see `repeatable_attention`.
    A use in another thread is waited for. A use within a use, for example by a callback or a tool,
    does not wait.
    """
    now = _current.get()
    observing = () if now.between_forwards else (each for each in now.scopes if each.observes_uses)
    scopes = (*observing, HookScope(observes_uses=False))
    with (
        _locked(model) as holder,
        _with(_Current(holder, scopes)),
        repeatable_attention(cuda_device(model)),
    ):
        yield


@contextmanager
def joined_use(model: Any) -> Iterator[None]:
    """Within this context, use a model alone, with the hooks of the enclosing use if there is one.

    Waits as `exclusive_use` does.
    """
    scopes = _current.get().scopes or (HookScope(observes_uses=True),)
    with _locked(model) as holder, _with(_Current(holder, scopes)):
        yield


@contextmanager
def between_forwards() -> Iterator[None]:
    """Within this context, code of the user runs: a forward of it is not one of the turn."""
    now = _current.get()
    with _with(_Current(now.holder, now.scopes, between_forwards=True)):
        yield


def current_scope() -> HookScope | None:
    """Return the scope that a hook belongs to if it is installed now; None outside of any."""
    scopes = _current.get().scopes
    return scopes[-1] if scopes else None


def acts_now(scope: HookScope | None) -> bool:
    """Return whether hooks of a scope act on a forward of the current context.

    Hooks without a scope act on every forward.
    """
    now = _current.get()
    return scope is None or (scope in now.scopes and not now.between_forwards)


@contextmanager
def _with(current: _Current) -> Iterator[None]:
    before = _current.get()
    _current.set(current)
    try:
        yield
    finally:
        _current.set(before)


@contextmanager
def _locked(model: Any) -> Iterator[object]:
    """Hold the model's lock; yield what identifies this context as its holder."""
    holder = _current.get().holder or object()
    lock = _lock_of(model)
    lock.acquire(holder)
    try:
        yield holder
    finally:
        lock.release()


@dataclass(slots=True)
class _ModelLock:
    """A lock that its holder can take again, and that waiting threads get in their order.

    Threads with one holder share it: that of a tool, and that of the turn which waits for the tool.
    """

    condition: threading.Condition = field(default_factory=threading.Condition)
    waiting: deque[object] = field(default_factory=deque)
    holder: object | None = None
    depth: int = 0

    def acquire(self, holder: object) -> None:
        with self.condition:
            if self.holder is holder:
                self.depth += 1
                return
            place = object()
            self.waiting.append(place)
            try:
                while self.holder is not None or self.waiting[0] is not place:
                    self.condition.wait()
                self.holder, self.depth = holder, 1
            finally:
                self.waiting.remove(place)
                self.condition.notify_all()

    def release(self) -> None:
        with self.condition:
            self.depth -= 1
            if not self.depth:
                self.holder = None
                self.condition.notify_all()


_locks: "weakref.WeakKeyDictionary[Any, _ModelLock]" = weakref.WeakKeyDictionary()
_locks_lock = threading.Lock()


def _lock_of(model: Any) -> _ModelLock:
    """Return the lock of a model, which is that of the model that PEFT or torch.compile wraps."""
    base = getattr(model, "_orig_mod", model)
    get_base_model = getattr(base, "get_base_model", None)
    base = get_base_model() if callable(get_base_model) else base
    with _locks_lock:
        return _locks.setdefault(base, _ModelLock())
