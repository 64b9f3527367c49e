"""Use of one model by several threads, and which hooks act on a forward.

A turn needs its model alone: hooks, kernels and caches belong to its forwards. Each use of a model
therefore takes the model's lock, and hooks act only on forwards of the use that installed them.
Both follow context variables and not threads: a tool runs in a thread of its own, with the context
of the turn that called it.
"""

import threading
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any

from tokentape.generation.hooks.model_lock import ModelLock
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
    rows: tuple[tuple[HookScope, ...], ...] = ()
    """Of a forward of several sequences: the scopes of each row, none for a copy."""
    locks_forwards: bool = False
    """Whether each forward takes the lock, and not this use as a whole."""


_OUTSIDE = _Current()
_current: ContextVar[_Current] = ContextVar("tokentape_model_use", default=_OUTSIDE)


@contextmanager
def exclusive_use(model: Any) -> Iterator[None]:
    """Within this context, use a model alone, without the hooks of a turn that it is called from.

    Attention is computed by kernels that give the same bits each time; see `repeatable_attention`.
    A use in another thread is waited for. A use within a use, for example by a callback or a tool,
    does not wait.
    """
    scopes = _scopes_of_use(_current.get())
    with (
        _locked(model) as holder,
        _with(_Current(holder, scopes)),
        repeatable_attention(cuda_device(model)),
    ):
        yield


@contextmanager
def tool_use(model: Any) -> Iterator[None]:
    """Within this context, a tool runs, which may use the model.

    It uses the model alone, as with `exclusive_use`. In a batch that would stop the other runs for
    as long as the tool takes: there, each of its forwards takes the model's lock by itself.
    """
    if not lock_of(model).is_shared:
        with exclusive_use(model):
            yield
        return
    now = _current.get()
    current = _Current(now.holder or object(), _scopes_of_use(now), locks_forwards=True)
    with _with(current), repeatable_attention(cuda_device(model)):
        yield


@contextmanager
def joined_use(model: Any) -> Iterator[None]:
    """Within this context, use a model alone, with the hooks of the enclosing use if there is one.

    Waits as `exclusive_use` does.
    """
    now = _current.get()
    if now.locks_forwards:
        yield
        return
    scopes = now.scopes or (HookScope(observes_uses=True),)
    with _locked(model) as holder, _with(_Current(holder, scopes)):
        yield


@contextmanager
def between_forwards() -> Iterator[None]:
    """Within this context, code of the user runs: a forward of it is not one of the turn."""
    now = _current.get()
    with _with(replace(now, between_forwards=True)):
        yield


def current_scope() -> HookScope | None:
    """Return the scope that a hook belongs to if it is installed now; None outside of any."""
    scopes = _current.get().scopes
    return scopes[-1] if scopes else None


def current_scopes() -> tuple[HookScope, ...]:
    """Return the scopes whose hooks act on the next forward of the current context."""
    return _current.get().scopes


@contextmanager
def shared_forward(model: Any, rows: Sequence[tuple[HookScope, ...]]) -> Iterator[None]:
    """Within this context, forwards of the model have one row for each of several sequences.

    Hooks of a scope act on the row that has the scope among its `rows`, see `row_of`. The caller
    holds the model's lock.
    """
    device = cuda_device(model)
    with _with(_Current(_current.get().holder, rows=tuple(rows))), repeatable_attention(device):
        yield


def row_of(scope: HookScope | None) -> int | None:
    """Return the row of a forward of several sequences that hooks of a scope act on.

    None in any other forward, and for a scope of none of its rows.
    """
    for row, scopes in enumerate(_current.get().rows):
        if scope in scopes:
            return row
    return None


def acts_now(scope: HookScope | None) -> bool:
    """Return whether hooks of a scope act on a forward of the current context.

    Hooks without a scope act on every forward; see `row_of` for forwards of several sequences.
    """
    now = _current.get()
    return scope is None or (scope in now.scopes and not now.between_forwards)


def _scopes_of_use(now: _Current) -> tuple[HookScope, ...]:
    """Return the scopes of a use that begins now: its own, and those that observe it."""
    observing = () if now.between_forwards else (each for each in now.scopes if each.observes_uses)
    return (*observing, HookScope(observes_uses=False))


@contextmanager
def locked_forward(model: Any) -> Iterator[None]:
    """Hold the model's lock within this context, for a forward of the current context."""
    with _locked(model):
        yield


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
    lock = lock_of(model)
    lock.acquire(holder)
    try:
        yield holder
    finally:
        lock.release()


_locks: "weakref.WeakKeyDictionary[Any, ModelLock]" = weakref.WeakKeyDictionary()
_locks_lock = threading.Lock()


def lock_of(model: Any) -> ModelLock:
    """Return the lock of a model, which is that of the model that PEFT or torch.compile wraps."""
    base = getattr(model, "_orig_mod", model)
    get_base_model = getattr(base, "get_base_model", None)
    base = get_base_model() if callable(get_base_model) else base
    with _locks_lock:
        return _locks.setdefault(base, ModelLock())
