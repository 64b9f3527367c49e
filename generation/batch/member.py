"""A thread of a batch, as the turns in it know it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers.cache_utils import Cache

from tokentape.generation import hf
from tokentape.generation.batch.forward_queue import ForwardedStep, ForwardQueue
from tokentape.generation.batch.shared_prefixes import SharedPrefixes
from tokentape.generation.hooks.model_use import lock_of


@dataclass(frozen=True, slots=True)
class StopRequest:
    """Ends the members of a batch after their next tokens, once it has an exception to raise."""

    errors: list[BaseException] = field(default_factory=list)

    def check(self) -> None:
        """Raise the exception if there is one."""
        if self.errors:
            raise self.errors[0]


@dataclass(frozen=True, slots=True)
class Member:
    """A member of a batch: the current context's turns share the forwards of its queue."""

    queue: ForwardQueue
    stop: StopRequest
    obstacle: str
    """Why sequences of this model are forwarded alone; empty if they need not be."""
    prefixes: SharedPrefixes

    def is_for(self, model: Any) -> bool:
        """Return whether the batch is one of this model."""
        return lock_of(model) is lock_of(self.queue.model)

    def backend(
        self, decoder: hf.Decoder, forwarded: Callable[[ForwardedStep, str], None]
    ) -> "SharedBackend":
        """Return a backend that forwards tokens together with those of other members.

        `forwarded` is called after each forward, with why it was alone, or an empty text.
        """
        obstacle = self.obstacle or hf.cache_obstacle(decoder.cache) or ""
        return SharedBackend(decoder, self.queue, obstacle, forwarded)


@dataclass(slots=True)
class SharedBackend:
    """A sequence whose tokens are forwarded together with those of other members of a batch."""

    decoder: hf.Decoder
    queue: ForwardQueue
    obstacle: str
    forwarded: Callable[[ForwardedStep, str], None]
    row: int | None = None
    """The row of the sequence in the newest forward with others."""

    @property
    def cache(self) -> Cache:
        return self.decoder.cache

    def holds(self, cache: Cache, tokens: int) -> bool:
        return self.decoder.holds(cache, tokens)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Forward the last of `ids`, int64 of shape (1, tokens); others use the model meanwhile."""
        step = hf.SequenceStep(self.decoder, ids)
        found = self.queue.forward(step, self.obstacle, row=self.row)
        self.row = found.row if found.rows > 1 else self.row
        self.forwarded(found, self.obstacle)
        return found.logits


_member: ContextVar[Member | None] = ContextVar("tokentape_batch_member", default=None)


def current_member() -> Member | None:
    """Return the member of a batch whose context this is, or None outside of batches."""
    return _member.get()


def member_for(model: Any) -> Member | None:
    """Return the current member of a batch of this model, or None."""
    member = _member.get()
    return member if member is not None and member.is_for(model) else None


@contextmanager
def as_member(member: Member) -> Iterator[None]:
    """Within this context, be a member of a batch."""
    token = _member.set(member)
    try:
        yield
    finally:
        _member.reset(token)
