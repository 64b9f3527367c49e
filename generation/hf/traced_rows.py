"""A trace of forwards of several sequences, in which attention of the rows is one operation."""

import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from transformers.cache_utils import Cache

from tokentape.generation.errors import ModelError
from tokentape.generation.hf.row_attention import KERNEL, AttendedRows, attending, is_plain
from tokentape.generation.hf.traced_model import TracedModel, trace_model, trace_obstacle

_ROWS = 2
"""The rows of the traced forward, which a trace may hold as a number."""
_HELD_TOKENS = 5
"""The tokens before the traced one. The trace gets the positions as an argument."""


@dataclass(frozen=True, slots=True, eq=False)
class TracedRows:
    """The operations of a forward of the next tokens of any number of sequences."""

    traced: TracedModel
    constants: Mapping[str, Any]
    """The arguments of the traced forward that are no tensors."""

    def applies(self, constants: Mapping[str, Any]) -> bool:
        """Return whether a forward with these arguments can be taken from the trace now.

        The caller holds the lock of the model.
        """
        return constants == self.constants and self.traced.applies(locked=True)

    def forward(
        self, input_ids: torch.Tensor, position_ids: torch.Tensor, rows: AttendedRows
    ) -> torch.Tensor:
        """Return the logits of a forward whose attention `rows` computes, (rows, 1, vocab)."""
        with attending(rows):
            return self.traced.forward(input_ids, position_ids)


_models: "weakref.WeakKeyDictionary[Any, TracedRows | str]" = weakref.WeakKeyDictionary()
"""The trace of each model, or why it has none."""


def traced_rows(
    model: Any, cache_name: str, layers: int, constants: Mapping[str, Any]
) -> TracedRows | str:
    """Return a trace of shared forwards of a model, or why it has none. No hooks are on it."""
    # A hook or a mode may be there now and not later.
    if (obstacle := trace_obstacle(model)) is not None:
        return obstacle
    known = _models.get(model)
    if known is None:
        known = _models[model] = _trace(model, cache_name, layers, constants)
    return known


def _trace(
    model: Any, cache_name: str, layers: int, constants: Mapping[str, Any]
) -> TracedRows | str:
    def step(twin: Any, input_ids: torch.Tensor, position_ids: torch.Tensor) -> torch.Tensor:
        for module in twin.modules():
            if hasattr(vars(module).get("config"), "_attn_implementation"):
                module.config._attn_implementation = KERNEL
        caches = _TracedRowCaches(layers)
        with attending(caches):
            logits: torch.Tensor = twin(
                input_ids=input_ids,
                position_ids=position_ids,
                **constants,
                **{cache_name: caches},
                attention_mask=None,
                use_cache=True,
                return_dict=True,
            ).logits
        caches.check_attended()
        return logits

    ids = torch.zeros((_ROWS, 1), dtype=torch.long)
    with torch.inference_mode():
        traced = trace_model(model, step, (ids, torch.full_like(ids, _HELD_TOKENS)))
    return traced if isinstance(traced, str) else TracedRows(traced, constants)


class _TracedRowCaches(Cache):
    """The caches of a forward that is traced, which compute no attention."""

    def __init__(self, layers: int) -> None:
        super().__init__(layers=[])
        self._waiting = set(range(layers))
        """The layers whose attention is not in the trace yet."""
        self._states: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return _HELD_TOKENS

    def update(
        self,
        key_states: torch.Tensor,
        value_states: torch.Tensor,
        layer_idx: int,
        *args: Any,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        self._states[layer_idx] = key_states, value_states
        return key_states, value_states

    def attend(self, module: Any, query: torch.Tensor, **settings: Any) -> torch.Tensor:
        """Put the operation into the trace. Raise ModelError if it cannot be this one."""
        layer = module.layer_idx
        if layer not in self._states or not is_plain(settings):
            raise ModelError("attention of its own")
        self._waiting.discard(layer)
        key, value = self._states.pop(layer)
        attended: torch.Tensor = torch.ops.tokentape.attend_rows(
            query, key, value, layer, settings.get("scaling")
        )
        return attended

    def append_and_attend(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        layer: int,
        scaling: float | None,
    ) -> torch.Tensor:
        """Return a tensor of the shape and dtype of the attention."""
        return query.transpose(1, 2).contiguous()

    def check_attended(self) -> None:
        """Raise ModelError if the attention of a layer is not in the trace."""
        if self._states or self._waiting:
            raise ModelError("attention of its own")
