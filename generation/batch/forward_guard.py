"""A lock around each forward of a model that a batch uses."""

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from tokentape.generation.hf import unwrapped
from tokentape.generation.hooks.hook_types import LockHook
from tokentape.generation.hooks.model_use import joined_use, lock_of, locked_forward


@contextmanager
def guarded_forwards(model: Any, unguarded: threading.Thread) -> Iterator[None]:
    """Within this context, each forward of the model takes its lock, but those of one thread.

    Tools of a batch, and functions of the user, may forward the model without holding the lock.
    """
    held = threading.local()

    def before(*args: Any) -> None:
        if threading.current_thread() is unguarded:
            return
        stack = ExitStack()
        stack.enter_context(locked_forward(model))
        held.stacks = [*getattr(held, "stacks", ()), stack]

    def after(*args: Any) -> None:
        stacks = getattr(held, "stacks", [])
        if stacks:
            stacks.pop().close()

    lock, base = lock_of(model), unwrapped(model)
    with joined_use(model):
        lock.is_shared = True
        handles = (
            base.register_forward_pre_hook(LockHook(before), prepend=True),
            base.register_forward_hook(LockHook(after), always_call=True),
        )
    try:
        yield
    finally:
        lock.is_shared = False
        for handle in handles:
            handle.remove()
