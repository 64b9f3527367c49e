"""The project's own forward hooks, which their class distinguishes from foreign ones."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FunctionType
from typing import Any

import torch
from torch import nn

from tokentape.generation.hooks.layers import output_of, replace_tensor
from tokentape.generation.hooks.model_use import acts_now, current_scope, row_of

_CAPTURING = "transformers.utils.output_capturing"


class TapeHook:
    """Base class of the project's forward hooks, which do not invalidate the KV cache.

    `call` is called as torch calls a forward hook, but only for forwards of the use of the model in
    which the hook was made; see `model_use`. Of a forward of several sequences it gets its own row,
    as if the sequence were forwarded alone.
    """

    __slots__ = ("_call", "scope")

    def __init__(self, call: Callable[..., object]) -> None:
        self._call = call
        self.scope = current_scope()


class ReadOnlyHook(TapeHook):
    """A hook that observes and changes nothing: what its callable returns is discarded."""

    __slots__ = ()

    def __call__(self, *args: Any) -> None:
        if (row := row_of(self.scope)) is not None:
            self._call(args[0], *(row_in(each, row) for each in args[1:]))
        elif acts_now(self.scope):
            self._call(*args)


class LockHook(ReadOnlyHook):
    """A hook on every forward that takes or releases a lock, and looks at nothing."""

    __slots__ = ()

    def __call__(self, *args: Any) -> None:
        self._call(*args)


class InterventionHook(TapeHook):
    """A hook whose return value replaces the output of the module.

    The salt of the cached ids (`cache.id_salt`) identifies the change, so it is not in the key.
    """

    __slots__ = ()

    def __call__(self, module: nn.Module, args: Any, output: Any) -> Any:
        if (row := row_of(self.scope)) is None:
            return self._call(module, args, output) if acts_now(self.scope) else None
        changed = self._call(module, row_in(args, row), row_in(output, row))
        if changed is None:
            return None
        given = output_of(output)
        # A copy: other modules may read the same tensor.
        rows = given.clone()
        rows[row : row + 1] = output_of(changed)
        return replace_tensor(output, given, rows)


def row_in(value: Any, row: int) -> Any:
    """Return a nested value with one row of each tensor, of shape (rows, …), as shape (1, …)."""
    if isinstance(value, torch.Tensor):
        return value[row : row + 1] if value.dim() else value
    if isinstance(value, dict):
        return {name: row_in(each, row) for name, each in value.items()}
    if isinstance(value, tuple | list) and not hasattr(value, "_fields"):
        return type(value)(row_in(each, row) for each in value)
    return value


class InputHook(TapeHook):
    """A hook before a module whose return value replaces the inputs of the module."""

    __slots__ = ()

    def __call__(self, *args: Any) -> Any:
        return self._call(*args) if acts_now(self.scope) else None


def foreign_hooks(module: nn.Module) -> dict[int, Callable[..., object]]:
    """Return the module's forward hooks that are not ours and may change its output, by their ids.

    torch does not reuse an id. The hooks that transformers installs at the first forward with
    `output_hidden_states` or `output_attentions`, and never removes, only read.
    """
    return {
        number: hook
        for hooks in (module._forward_hooks, module._forward_pre_hooks)
        for number, hook in hooks.items()
        if not isinstance(hook, TapeHook) and not _is_capturing(hook)
    }


def _is_capturing(hook: object) -> bool:
    return isinstance(hook, FunctionType) and hook.__module__ == _CAPTURING


@contextmanager
def without_hooks(model: Any) -> Iterator[None]:
    """Remove all forward hooks of the model within this context, so that none sees the probe."""
    removed = []
    for module in model.modules():
        for hooks in (module._forward_hooks, module._forward_pre_hooks):
            # Cleared, not replaced: the handles of hooks refer to these dictionaries.
            removed.append((hooks, dict(hooks)))
            hooks.clear()
    try:
        yield
    finally:
        for hooks, saved in removed:
            hooks.update(saved)
