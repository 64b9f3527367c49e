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
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

from tokentape.generation.hf.attention_kernel import ALWAYS_THERE, attention_kernel
from tokentape.generation.hf.caches import cache_name, experts_setting, prefix_obstacle
from tokentape.generation.hf.decoder import Decoder, decoding
from tokentape.generation.hf.growing_layer import GrowingLayer
from tokentape.generation.hf.row_attention import (
    KERNEL,
    RowCaches,
    attending,
    function_of,
    in_rows,
)
from tokentape.generation.hf.signatures import accepts, unwrapped
from tokentape.generation.hf.traced_rows import TracedRows, traced_rows
from tokentape.generation.hooks.hook_types import TapeHook, foreign_hooks

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
        self._functions = {module: function_of(module) for module, _, _ in self._configs}
        self._trace: TracedRows | None = None
        self.traced_forwards = 0
        """The forwards whose logits came from a trace."""

    def forward(
        self, steps: Sequence[SequenceStep], *, rows: int, places: Sequence[int]
    ) -> list[torch.Tensor]:
        """Forward the last token of each sequence onto its cache, in one forward of so many rows.

        `places` are the rows of the sequences; other rows are copies of the first sequence. Return
        the logits of each sequence, float32 of shape (1, vocab). Raise ModelError if attention does
        not come through transformers' interface: the caches are unusable then.
        """
        inputs = [each.decoder.inputs_of_step(each.ids) for each in steps]
        of_rows = in_rows(inputs, places, rows)
        ids, positions = (
            torch.cat([each[name] for each in of_rows]) for name in ("input_ids", "position_ids")
        )
        constants = _constants(inputs[0])
        caches = RowCaches([each.decoder.cache for each in steps], places, rows, self._functions)
        inference = all(each.decoder.allows_inference_mode for each in steps)
        with torch.inference_mode() if inference else torch.no_grad(), decoding(self._model):
            trace = self._trace
            if trace is not None and trace.applies(constants):
                logits = trace.forward(ids, positions, caches)
                self.traced_forwards += 1
            else:
                logits = self._by_modules(ids, positions, constants, caches)
        caches.check_attended()
        return [
            each.decoder.logits_of_step(logits[row : row + 1])
            for each, row in zip(steps, places, strict=True)
        ]

    def prove_trace(self, steps: Sequence[SequenceStep], copies: Sequence[SequenceStep]) -> bool:
        """Take forwards from a trace from now on, if it gives the bits of the modules.

        `steps` and `copies` are the same sequences, with caches of their own; both are forwarded.
        There are more than two, which is the number of rows of the traced forward. The model has
        no hooks meanwhile. Return whether forwards are taken from a trace.
        """
        if not all(each.decoder.allows_inference_mode for each in (*steps, *copies)):
            return False
        constants = _constants(steps[0].decoder.inputs_of_step(steps[0].ids))
        layers = len(steps[0].decoder.cache.layers)
        found = traced_rows(self._model, self._cache_name, layers, constants)
        if isinstance(found, str):
            return False
        self._trace = None
        places = range(len(steps))
        by_modules = self.forward(steps, rows=len(steps), places=places)
        self._trace = found
        try:
            traced = self.forward(copies, rows=len(steps), places=places)
            same = all(map(torch.equal, traced, by_modules)) and _same_states(steps, copies)
        except Exception:  # some releases of torch hold the number of rows of the trace
            same = False
        if not same:
            self._trace = None
        return same

    def _by_modules(
        self,
        ids: torch.Tensor,
        positions: torch.Tensor,
        constants: Mapping[str, Any],
        caches: RowCaches,
    ) -> torch.Tensor:
        """Return the logits of a forward that the modules compute, shape (rows, 1, vocab)."""
        with attending(caches), self._choosing_kernel():
            logits: torch.Tensor = self._model(
                input_ids=ids,
                position_ids=positions,
                **constants,
                **{self._cache_name: caches},
                attention_mask=None,
                use_cache=True,
                return_dict=True,
            ).logits
        return logits

    @contextmanager
    def _choosing_kernel(self) -> Iterator[None]:
        """Within this context, let attention of the model be that of `row_attention`."""
        try:
            # Assigning to an attribute of a module takes microseconds, and there are a hundred.
            for module, _, twin in self._configs:
                vars(module)["config"] = twin
            yield
        finally:
            for module, config, _ in self._configs:
                vars(module)["config"] = config


def _constants(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a step that all sequences have alike."""
    return {name: inputs[name] for name in ("logits_to_keep",) if name in inputs}


def _same_states(steps: Sequence[SequenceStep], copies: Sequence[SequenceStep]) -> bool:
    """Return whether two lists of sequences have caches with the same bits."""
    layers = (
        zip(step.decoder.cache.layers, copied.decoder.cache.layers, strict=True)
        for step, copied in zip(steps, copies, strict=True)
    )
    pairs: Iterator[tuple[Any, Any]] = chain.from_iterable(layers)
    return all(
        torch.equal(one.keys, other.keys) and torch.equal(one.values, other.values)
        for one, other in pairs
    )


def _twin(config: Any) -> Any:
    """Return a copy of a config that chooses the attention of rows."""
    twin = copy.deepcopy(config)
    twin._attn_implementation = KERNEL
    return twin
