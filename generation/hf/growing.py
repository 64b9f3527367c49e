"""Keys and values that grow in place.

`DynamicLayer` concatenates: every token copies the whole history of every layer. Here the history
lies in a buffer with room behind it. Attention is given a view, of the same values in the same
shape, and gives the same bits (`tests/generation/test_growing.py`).
"""

import weakref
from typing import Any, Self

import torch
from transformers.cache_utils import DynamicLayer

# Room for at least this many tokens more, and for an eighth of what is there.
_ROOM_TOKENS = 128
_ROOM_SHARE = 8


class _Buffer:
    """Room for keys and values, shape (batch, heads, capacity, dim), and how much of it is taken.

    Layers that were copied from each other share a buffer. What is taken is never written again
    while a second layer may see it.
    """

    def __init__(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        self.keys = keys
        self.values = values
        self.taken = 0
        self.layers: weakref.WeakSet[GrowingLayer] = weakref.WeakSet()

    def is_under(self, keys: torch.Tensor) -> bool:
        """Whether these keys are its first ones: transformers may have put others in a layer."""
        return keys.data_ptr() == self.keys.data_ptr() and keys.stride() == self.keys.stride()


class GrowingLayer(DynamicLayer):  # type: ignore[no-untyped-call]
    """A `DynamicLayer` that appends in place, and of which a shallow copy is a fork.

    Whoever is at the end of what is taken writes on; whoever is not copies what it has first.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)  # type: ignore[no-untyped-call]
        self._buffer: _Buffer | None = None

    def __copy__(self) -> Self:
        twin = type(self).__new__(type(self))
        vars(twin).update(vars(self))
        if self._buffer is not None:
            self._buffer.layers.add(twin)
        return twin

    def __getstate__(self) -> dict[str, Any]:
        # What is saved or copied deeply shares nothing.
        return vars(self) | {"_buffer": None}

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append states, shape (batch, heads, tokens, dim); all of the keys and values."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        if torch.is_grad_enabled() and key_states.requires_grad:
            # Autograd does not take a write into what it has seen.
            self._buffer = None
            grown: tuple[torch.Tensor, torch.Tensor] = super().update(key_states, value_states)
            return grown
        held = self.get_seq_length()
        needed = held + key_states.shape[-2]
        buffer = self._buffer_for(held, needed, key_states, value_states)
        buffer.keys[:, :, held:needed] = key_states
        buffer.values[:, :, held:needed] = value_states
        buffer.taken = needed
        self.keys = buffer.keys[:, :, :needed]
        self.values = buffer.values[:, :, :needed]
        return self.keys, self.values

    def crop(self, tokens_to_remove: int) -> None:
        """Cut off the last tokens, given as a negative number as for every layer."""
        super().crop(tokens_to_remove)
        buffer = self._buffer
        if buffer is not None and len(buffer.layers) == 1 and self._is_on(buffer):
            buffer.taken = self.get_seq_length()

    def compact(self) -> None:
        """Give back the room that is not taken."""
        if self.keys is not None and self.values is not None:
            self.keys, self.values = self.keys.clone(), self.values.clone()
            self._buffer = None

    def reset(self) -> None:
        super().reset()
        self._buffer = None

    def _is_on(self, buffer: _Buffer) -> bool:
        return self.keys is not None and self.keys.numel() > 0 and buffer.is_under(self.keys)

    def _buffer_for(
        self, held: int, needed: int, keys: torch.Tensor, values: torch.Tensor
    ) -> _Buffer:
        """A buffer that holds what this layer has, with room for what is to come."""
        buffer = self._buffer
        if (
            buffer is not None
            and buffer.taken == held
            and buffer.keys.shape[-2] >= needed
            and self._is_on(buffer)
        ):
            return buffer
        capacity = needed + max(_ROOM_TOKENS, needed // _ROOM_SHARE)
        grown = _Buffer(_room(keys, capacity), _room(values, capacity))
        if self.keys is not None and self.values is not None and held:
            grown.keys[:, :, :held] = self.keys
            grown.values[:, :, :held] = self.values
        grown.layers.add(self)
        if buffer is not None:
            buffer.layers.discard(self)
        self._buffer = grown
        return grown


def _room(states: torch.Tensor, capacity: int) -> torch.Tensor:
    batch, heads, _, dim = states.shape
    # A tensor of inference mode could not be written to by who goes on with the cache without it.
    with torch.inference_mode(False):
        return states.new_empty((batch, heads, capacity, dim))
