"""A cache layer whose keys and values grow in place.

`DynamicLayer` concatenates: every token copies all keys and values of every layer. Here they are in
a buffer with spare capacity, and attention reads a view of it. The values and shapes are the same,
and so are the resulting bits (`tests/generation/test_growing_layer.py`).
"""

import weakref
from collections.abc import Sequence
from typing import Any, Self

import torch
from transformers.cache_utils import DynamicLayer

# Spare capacity: at least this many tokens, or an eighth of those already held.
_SPARE_TOKENS = 128
_SPARE_DIVISOR = 8


def grown_capacity(tokens: int) -> int:
    """Return the capacity, in tokens, of a new buffer that is made for this many tokens."""
    return tokens + max(_SPARE_TOKENS, tokens // _SPARE_DIVISOR)


class _Buffer:
    """Storage for keys and values, shape (batch, heads, capacity, dim), used up to `taken` tokens.

    A layer and its copies share a buffer. The used part is never overwritten while more than one
    layer refers to it.
    """

    def __init__(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        self.keys = keys
        self.values = values
        self.taken = 0
        self.layers: weakref.WeakSet[GrowingLayer] = weakref.WeakSet()

    def backs(self, keys: torch.Tensor) -> bool:
        """Return whether `keys` is a view of the start of this buffer.

        transformers may assign other tensors to a layer.
        """
        return keys.data_ptr() == self.keys.data_ptr() and keys.stride() == self.keys.stride()


class GrowingLayer(DynamicLayer):  # type: ignore[no-untyped-call]
    """A `DynamicLayer` that appends in place. A shallow copy of it is an independent fork.

    The layer whose tokens end where the used part of the buffer ends appends to the buffer. Any
    other layer first copies its tokens to a new buffer.
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
        # Pickled layers and deep copies share no buffer.
        return vars(self) | {"_buffer": None}

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append states, shape (batch, heads, tokens, dim), and return all keys and values."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        if torch.is_grad_enabled() and key_states.requires_grad:
            # Autograd does not allow writes to a tensor that it has recorded.
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

    def append_token(
        self, keys: torch.Tensor, values: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append the states of one token as `update` does. No gradients are recorded."""
        buffer = self._buffer
        if buffer is None or self.keys is None or not self._is_backed_by(buffer):
            return self.update(keys, values)
        held = self.keys.shape[2]
        if buffer.taken != held or buffer.keys.shape[2] == held:
            return self.update(keys, values)
        buffer.keys.narrow(2, held, 1).copy_(keys)
        buffer.values.narrow(2, held, 1).copy_(values)
        buffer.taken = held + 1
        self.keys = buffer.keys.narrow(2, 0, held + 1)
        self.values = buffer.values.narrow(2, 0, held + 1)
        return self.keys, self.values

    def buffers_for(self, tokens: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the buffers of keys and values, with capacity for this many tokens.

        Their shape is (batch, heads, capacity, dim). After writing the states of further tokens to
        them, call `take_written`. The layer must hold tokens.
        """
        held = self.get_seq_length()
        if held >= tokens and self._buffer is not None:
            return self._buffer.keys, self._buffer.values
        assert self.keys is not None
        assert self.values is not None
        buffer = self._buffer_for(held, tokens, self.keys, self.values)
        return buffer.keys, buffer.values

    def take_written(self, tokens: int) -> None:
        """Hold this many tokens, whose states were written to `buffers_for` them."""
        buffer = self._buffer
        assert buffer is not None
        buffer.taken = tokens
        self.keys = buffer.keys[:, :, :tokens]
        self.values = buffer.values[:, :, :tokens]

    def last_states(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return copies of the keys and values of the last token, shape (batch, heads, 1, dim)."""
        assert self.keys is not None
        assert self.values is not None
        return self.keys[:, :, -1:].clone(), self.values[:, :, -1:].clone()

    def replace_last_states(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Overwrite the states of the last token, which no other layer may share."""
        assert self.keys is not None
        assert self.values is not None
        self.keys[:, :, -1:] = keys
        self.values[:, :, -1:] = values

    def crop(self, tokens_to_remove: int) -> None:
        """Remove the last tokens; their number is negative, as for every layer."""
        super().crop(tokens_to_remove)
        buffer = self._buffer
        if buffer is not None and len(buffer.layers) == 1 and self._is_backed_by(buffer):
            buffer.taken = self.get_seq_length()

    def compact(self) -> None:
        """Free the spare capacity."""
        if self.keys is not None and self.values is not None:
            self.keys, self.values = self.keys.clone(), self.values.clone()
            self._buffer = None

    def reset(self) -> None:
        super().reset()
        self._buffer = None

    def _is_backed_by(self, buffer: _Buffer) -> bool:
        return self.keys is not None and self.keys.numel() > 0 and buffer.backs(self.keys)

    def _buffer_for(
        self, held: int, needed: int, keys: torch.Tensor, values: torch.Tensor
    ) -> _Buffer:
        """Return a buffer that holds the tokens of this layer and has capacity for `needed`."""
        buffer = self._buffer
        if (
            buffer is not None
            and buffer.taken == held
            and buffer.keys.shape[-2] >= needed
            and self._is_backed_by(buffer)
        ):
            return buffer
        capacity = grown_capacity(needed)
        grown = _Buffer(_allocate(keys, capacity), _allocate(values, capacity))
        if self.keys is not None and self.values is not None and held:
            grown.keys[:, :, :held] = self.keys
            grown.values[:, :, :held] = self.values
        grown.layers.add(self)
        if buffer is not None:
            buffer.layers.discard(self)
        self._buffer = grown
        return grown


def append_rows(
    layers: Sequence[Any], keys: torch.Tensor, values: torch.Tensor
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Append the states of one token to each layer, as `update` of each does, in less time.

    Keys and values have shape (layers, heads, 1, dim). Return all keys and values of each layer.
    """
    states = zip(layers, torch.split(keys, 1), torch.split(values, 1), strict=True)
    return [
        layer.append_token(key, value) if type(layer) is GrowingLayer else layer.update(key, value)
        for layer, key, value in states
    ]


def _allocate(states: torch.Tensor, capacity: int) -> torch.Tensor:
    batch, heads, _, dim = states.shape
    # A tensor made in inference mode could not be written to outside of it later.
    with torch.inference_mode(False):
        return states.new_empty((batch, heads, capacity, dim))
