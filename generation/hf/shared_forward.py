"""One forward for the next tokens of several sequences, each with a cache of its own.

The sequences are the rows of a batch, one token each, so that linear layers, norms and the head
read their weights once for all rows. Attention is computed for each row over the keys and values
of its own sequence, so that nothing is padded and no mask is needed.

On a CPU the bits of a row depend on the number of rows and on its place, and not on what the other
rows are (`tests/generation/batch/test_shared_forward.py`): with several threads, a matrix library
may compute the last rows otherwise than the first. A forward can therefore be repeated for one of
its sequences alone, at its place, with copies of its row in place of the others.
"""

import copy
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer, DynamicSlidingWindowLayer
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from tokentape.generation.errors import ModelError
from tokentape.generation.hf.attention_kernel import ALWAYS_THERE, attention_kernel
from tokentape.generation.hf.caches import cache_name, experts_setting, prefix_obstacle
from tokentape.generation.hf.decoder import Decoder, decoding
from tokentape.generation.hf.growing_layer import GrowingLayer, append_rows
from tokentape.generation.hf.signatures import accepts, unwrapped
from tokentape.generation.hooks.hook_types import TapeHook, foreign_hooks

Value = TypeVar("Value")

_KERNEL = "tokentape_rows"
"""The name under which `_attend_rows` is registered.

transformers knows no masks for this name, and so makes none.
"""
_FIELD = "_attn_implementation"
_LAYERS = (GrowingLayer, DynamicLayer, DynamicSlidingWindowLayer)
_LAYER_TYPES = frozenset({"full_attention", "sliding_attention"})


def sharing_obstacle(model: Any) -> str | None:
    """Return why sequences of a model cannot share forwards, as `kind:what`, or None."""
    kernel = attention_kernel(model)
    if kernel not in ALWAYS_THERE:
        return f"kernel:{kernel}"
    if rope := prefix_obstacle(model):
        return rope
    config = model.config.get_text_config(decoder=True)
    # A token's expert computes its rows with those of other tokens: their number changes its bits.
    if (experts := experts_setting(model)) is not None:
        return f"experts:{experts}"
    kinds = set(getattr(config, "layer_types", None) or ()) - _LAYER_TYPES
    if kinds:
        return f"layers:{sorted(kinds)[0]}"
    if not accepts(unwrapped(model).forward, "position_ids"):
        return "forward:no position_ids"
    for module in model.modules():
        if hasattr(module, "_hf_hook") or foreign_hooks(module):
            return "hook:foreign"
        hooks = (*module._forward_hooks.values(), *module._forward_pre_hooks.values())
        if any(isinstance(each, TapeHook) and each.scope is None for each in hooks):
            return "hook:on every forward"
    return None


def cache_obstacle(cache: Cache) -> str | None:
    """Return why a sequence with this cache cannot share forwards, as `cache:what`, or None."""
    if type(cache) is not DynamicCache:
        return f"cache:{type(cache).__name__}"
    if cache.offloading:
        return "cache:offloaded"
    kinds = (type(each) for each in cache.layers)
    other = next((kind.__name__ for kind in kinds if kind not in _LAYERS), None)
    return None if other is None else f"cache:{other}"


@dataclass(frozen=True, slots=True)
class SequenceStep:
    """A sequence whose last token is to be forwarded."""

    decoder: Decoder
    ids: torch.Tensor
    """Its tokens, int64 of shape (1, tokens); the cache of the decoder lacks the last."""


class SharedForwards:
    """Forwards of a model with a row for each of several sequences.

    The caller holds the model's lock; `sharing_obstacle` and `cache_obstacle` returned None.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self._cache_name = cache_name(model)
        # The outermost model keeps its config: other threads may read its kernel meanwhile.
        top = unwrapped(model)
        twins: dict[int, Any] = {}
        self._configs = [
            (module, module.config, twins.setdefault(id(module.config), _twin(module.config)))
            for module in top.modules()
            if module is not top and hasattr(vars(module).get("config"), _FIELD)
        ]
        self._functions = {module: _function_of(module) for module, _, _ in self._configs}

    def forward(
        self, steps: Sequence[SequenceStep], *, rows: int, places: Sequence[int]
    ) -> list[torch.Tensor]:
        """Forward the last token of each sequence onto its cache, in one forward of so many rows.

        `places` are the rows of the sequences; other rows are copies of the first sequence. Return
        the logits of each sequence, float32 of shape (1, vocab). Raise ModelError if attention does
        not come through transformers' interface: the caches are unusable then.
        """
        inputs = [each.decoder.inputs_of_step(each.ids) for each in steps]
        of_rows = _in_rows(inputs, places, rows)
        arguments = {
            name: torch.cat([each[name] for each in of_rows])
            for name in ("input_ids", "position_ids")
        }
        if "logits_to_keep" in inputs[0]:
            arguments["logits_to_keep"] = inputs[0]["logits_to_keep"]
        caches = _RowCaches([each.decoder.cache for each in steps], places, rows, self._functions)
        inference = all(each.decoder.allows_inference_mode for each in steps)
        with (
            torch.inference_mode() if inference else torch.no_grad(),
            self._attending(caches),
            decoding(self._model),
        ):
            logits = self._model(
                **arguments,
                **{self._cache_name: caches},
                attention_mask=None,
                use_cache=True,
                return_dict=True,
            ).logits
        caches.check_attended()
        return [
            each.decoder.logits_of_step(logits[row : row + 1])
            for each, row in zip(steps, places, strict=True)
        ]

    @contextmanager
    def _attending(self, caches: "_RowCaches") -> Iterator[None]:
        """Within this context, let attention of the model read the caches row by row."""
        token = _caches.set(caches)
        try:
            # Assigning to an attribute of a module takes microseconds, and there are a hundred.
            for module, _, twin in self._configs:
                vars(module)["config"] = twin
            yield
        finally:
            for module, config, _ in self._configs:
                vars(module)["config"] = config
            _caches.reset(token)


class _RowCaches(Cache):
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
        states = self._states.pop(module.layer_idx, None)
        if states is None:
            raise ModelError(f"layer {module.layer_idx} reads keys and values of another layer")
        self._attended.add(module.layer_idx)
        function = self._functions.get(module)
        if function is None:
            raise ModelError(f"{type(module).__name__} has no attention function")
        rows = torch.split(query, 1)
        pairs = zip(self._places, states, strict=True)
        if function is sdpa_attention_forward and _is_plain(settings):
            # What that function does for one query, without its Python code in each row.
            heads = [
                scaled_dot_product_attention(
                    rows[row], keys, values, scale=settings.get("scaling"), enable_gqa=True
                )
                for row, (keys, values) in pairs
            ]
            return torch.cat(_in_rows(heads, self._places, len(rows))).transpose(1, 2).contiguous()
        outputs = [
            function(module, rows[row], keys, values, None, **settings)[0]
            for row, (keys, values) in pairs
        ]
        return torch.cat(_in_rows(outputs, self._places, len(rows)))

    def check_attended(self) -> None:
        """Raise ModelError if a layer's keys and values were not read by `attend`."""
        if self._states or len(self._attended) != len(self.layers):
            raise ModelError("its attention does not come through transformers' interface")


_caches: ContextVar[_RowCaches] = ContextVar("tokentape_row_caches")
"""The caches of the forward that this thread computes."""


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
    return _caches.get().attend(module, query, **settings), None


ALL_ATTENTION_FUNCTIONS.register(_KERNEL, _attend_rows)


def _is_plain(settings: Mapping[str, Any]) -> bool:
    """Return whether attention with these settings is the softmax of scaled products alone."""
    changing = ("softcap", "position_bias", "s_aux", "cache")
    return not settings.get("dropout") and all(settings.get(each) is None for each in changing)


def _in_rows(values: Sequence[Value], places: Sequence[int], rows: int) -> list[Value]:
    """Return `rows` values: each at its place, and the first one in the rows without a place."""
    found = [values[0]] * rows
    for place, value in zip(places, values, strict=True):
        found[place] = value
    return found


def _twin(config: Any) -> Any:
    """Return a copy of a config that chooses `_attend_rows`."""
    twin = copy.deepcopy(config)
    twin._attn_implementation = _KERNEL
    return twin


def _function_of(module: Any) -> Callable[..., Any] | None:
    """Return the attention function that a module calls when it is forwarded alone."""
    eager = getattr(sys.modules[type(module).__module__], "eager_attention_forward", None)
    kernel = str(module.config._attn_implementation)
    return cast("Callable[..., Any] | None", ALL_ATTENTION_FUNCTIONS.get(kernel, eager))
