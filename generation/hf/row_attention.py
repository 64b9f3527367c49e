"""Attention of the rows of a forward, each over the keys and values of its own sequence.

It is an attention function of transformers, and while a forward is traced, one operation of the
trace for each layer.
"""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Protocol, TypeVar, cast

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers.cache_utils import Cache
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from tokentape.generation.errors import ModelError
from tokentape.generation.hf.growing_layer import append_rows

Value = TypeVar("Value")

KERNEL = "tokentape_rows"
"""The name under which attention of rows is registered.

transformers knows no masks for this name, and so makes none.
"""


class AttendedRows(Protocol):
    """What computes the attention of a forward."""

    def attend(self, module: Any, query: torch.Tensor, **settings: Any) -> torch.Tensor:
        """Return the attention of each row, shape (rows, 1, heads, dim)."""
        ...

    def append_and_attend(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        layer: int,
        scaling: float | None,
    ) -> torch.Tensor:
        """Append the states of the rows to a layer, and return as `attend` does."""
        ...


_current: ContextVar[AttendedRows] = ContextVar("tokentape_attended_rows")
"""What computes the attention of the forward of this thread."""


@contextmanager
def attending(rows: AttendedRows) -> Iterator[None]:
    """Within this context, let `rows` compute the attention of `KERNEL` and of traces."""
    token = _current.set(rows)
    try:
        yield
    finally:
        _current.reset(token)


class RowCaches(Cache):
    """The caches of the sequences of a forward, each of which gets one row of it."""

    def __init__(
        self,
        caches: Sequence[Cache],
        places: Sequence[int],
        rows: int,
        functions: Mapping[torch.nn.Module, Callable[..., Any] | None],
    ) -> None:
        super().__init__(layers=list(caches[0].layers))
        self._caches = caches
        self._places = list(places)
        self._fills_rows = self._places == list(range(rows))
        self._functions = functions
        self._states: dict[int, list[tuple[torch.Tensor, torch.Tensor]]] = {}
        """By layer: the keys and values of each sequence, until attention has read them."""
        self._attended: set[int] = set()

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return max(int(each.get_seq_length(layer_idx)) for each in self._caches)

    def update(
        self,
        key_states: torch.Tensor,
        value_states: torch.Tensor,
        layer_idx: int,
        *args: Any,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append its row to each sequence. Return the rows: `attend` reads what is held."""
        layers = [cache.layers[layer_idx] for cache in self._caches]
        keys, values = (
            states if self._fills_rows else states[self._places]
            for states in (key_states, value_states)
        )
        self._states[layer_idx] = append_rows(layers, keys, values)
        return key_states, value_states

    def attend(self, module: Any, query: torch.Tensor, **settings: Any) -> torch.Tensor:
        """Return the attention of each row, shape (rows, 1, heads, dim).

        Rows of no sequence have that of the first sequence. Raise ModelError for a layer that holds
        no keys and values of its own.
        """
        states = self._take_states(module.layer_idx)
        function = self._functions.get(module)
        if function is None:
            raise ModelError(f"{type(module).__name__} has no attention function")
        if function is sdpa_attention_forward and is_plain(settings):
            return self._attend_plainly(query, states, settings.get("scaling"))
        rows = torch.split(query, 1)
        outputs = [
            function(module, rows[row], keys, values, None, **settings)[0]
            for row, (keys, values) in zip(self._places, states, strict=True)
        ]
        return torch.cat(in_rows(outputs, self._places, len(rows)))

    def append_and_attend(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        layer: int,
        scaling: float | None,
    ) -> torch.Tensor:
        """Append its row to each sequence; return their attention as `attend` does."""
        self.update(key, value, layer)
        return self._attend_plainly(query, self._take_states(layer), scaling)

    def _take_states(self, layer: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
        states = self._states.pop(layer, None)
        if states is None:
            raise ModelError(f"layer {layer} reads keys and values of another layer")
        self._attended.add(layer)
        return states

    def _attend_plainly(
        self,
        query: torch.Tensor,
        states: Sequence[tuple[torch.Tensor, torch.Tensor]],
        scaling: float | None,
    ) -> torch.Tensor:
        """Do what transformers' function does for one query, without its code in each row."""
        rows = torch.split(query, 1)
        heads = [
            scaled_dot_product_attention(rows[row], keys, values, scale=scaling, enable_gqa=True)
            for row, (keys, values) in zip(self._places, states, strict=True)
        ]
        return torch.cat(in_rows(heads, self._places, len(rows))).transpose(1, 2).contiguous()

    def check_attended(self) -> None:
        """Raise ModelError if a layer's keys and values were not read by `attend`."""
        if self._states or len(self._attended) != len(self.layers):
            raise ModelError("its attention does not come through transformers' interface")


def _attend_rows(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **settings: Any,
) -> tuple[torch.Tensor, None]:
    """Compute attention row by row, as an attention function of transformers."""
    # For kernels that are not used here: one position of each row, where one of a row is due.
    settings.pop("position_ids", None)
    return _current.get().attend(module, query, **settings), None


ALL_ATTENTION_FUNCTIONS.register(KERNEL, _attend_rows)

_LIBRARY = torch.library.Library("tokentape", "DEF")  # type: ignore[no-untyped-call]
_LIBRARY.define(  # type: ignore[no-untyped-call]
    "attend_rows(Tensor query, Tensor key, Tensor value, int layer, float? scaling) -> Tensor"
)


def _append_and_attend(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, layer: int, scaling: float | None
) -> torch.Tensor:
    """Compute attention row by row, as an operation of torch that a trace can hold."""
    return _current.get().append_and_attend(query, key, value, layer, scaling)


_LIBRARY.impl("attend_rows", _append_and_attend, "CPU")  # type: ignore[no-untyped-call]


def is_plain(settings: Mapping[str, Any]) -> bool:
    """Return whether attention with these settings is the softmax of scaled products alone."""
    changing = ("softcap", "position_bias", "s_aux", "cache")
    return not settings.get("dropout") and all(settings.get(each) is None for each in changing)


def in_rows(values: Sequence[Value], places: Sequence[int], rows: int) -> list[Value]:
    """Return `rows` values: each at its place, and the first one in the rows without a place."""
    found = [values[0]] * rows
    for place, value in zip(places, values, strict=True):
        found[place] = value
    return found


def function_of(module: Any) -> Callable[..., Any] | None:
    """Return the attention function that a module calls when it is forwarded alone."""
    eager = getattr(sys.modules[type(module).__module__], "eager_attention_forward", None)
    kernel = str(module.config._attn_implementation)
    return cast("Callable[..., Any] | None", ALL_ATTENTION_FUNCTIONS.get(kernel, eager))
