"""Forwards of single tokens without the Python code of the model's modules, with the same bits.

In a small model on a CPU, a quarter of a decode step is Python code of modules; a trace of the
model needs none of it. Each turn proves its first traced step against the modules, bit for bit,
before another is taken from the trace alone. `tests/generation/test_traced_step.py` checks the
rest.
"""

import weakref
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer
from transformers.modeling_outputs import CausalLMOutputWithPast

from tokentape.generation.hf.growing_layer import GrowingLayer
from tokentape.generation.hf.traced_model import TracedModel, trace_model, trace_obstacle

UNTRACED_STEPS = 32
"""Steps of a model in a process before it is traced, which takes as long as some ten steps."""
UNTRACED_TURN_STEPS = 8
"""Steps of a turn before one is traced: a proof takes as long as some four traced steps save."""
_INPUTS = frozenset({"input_ids", "position_ids", "use_cache", "logits_to_keep"})
"""Arguments of a traceable forward, besides its cache."""
_FAILURES = 2
"""Traces without the bits of the modules after which a model is not traced again."""


@dataclass(slots=True, eq=False)
class _ModelSteps:
    """The counted steps and the trace of one model."""

    steps: int = 0
    """Steps that its modules computed since it was last traced."""
    trace: "_Trace | None" = None
    failures: int = 0
    obstacle: str | None = None
    """Why it is never traced, once that is known."""


_models: "weakref.WeakKeyDictionary[Any, _ModelSteps]" = weakref.WeakKeyDictionary()


@dataclass(slots=True, eq=False)
class StepForwards:
    """Forwards of single tokens of one sequence: by the modules, or by a proven trace of them.

    Use it in the inference mode of torch alone: a trace gives no gradients.
    """

    model: Any
    cache_name: str
    steps: int = field(default=0, init=False)
    """The forwards so far."""
    traced_steps: int = field(default=0, init=False)
    """The forwards whose logits came from a trace."""
    _proven: "_Trace | None" = field(default=None, init=False)
    """The trace that gave the bits of the modules in this turn."""

    def forward(self, ids: torch.Tensor, inputs: Mapping[str, Any]) -> Any:
        """Forward the last of `ids`, shape (1, tokens); `inputs` are the arguments of the model.

        Return the outputs of the model: from a trace they have `logits` and no cache.
        """
        known = _models.setdefault(self.model, _ModelSteps())
        cache = inputs.get(self.cache_name)
        self.steps += 1
        short = self.steps <= UNTRACED_TURN_STEPS
        trace = None if short else self._trace_for(known, inputs, cache)
        if trace is None:
            known.steps += 1
            return self.model(**inputs, return_dict=True)
        if trace is not self._proven:
            return self._prove(known, trace, ids, inputs)
        self.traced_steps += 1
        return CausalLMOutputWithPast(logits=trace.forward(ids, inputs, cache))

    def _trace_for(
        self, known: _ModelSteps, inputs: Mapping[str, Any], cache: Any
    ) -> "_Trace | None":
        """Return the trace of the model if this step can be taken from it; make one if it is time.

        It is made for later steps. A model with an obstacle for now, such as a hook, keeps it.
        """
        if known.obstacle is not None or known.steps < UNTRACED_STEPS:
            return None
        if known.trace is None:
            if not torch.is_inference_mode_enabled():
                return None
            obstacle = step_obstacle(self.model, cache)
            made = obstacle or _trace(self.model, self.cache_name, inputs, cache)
            if isinstance(made, str):
                known.obstacle = made if obstacle is None else None
                known.steps = 0
                return None
            # It is proven at another length than its own, which it may hold as a number.
            known.trace = made
            return None
        return known.trace if known.trace.applies(inputs, cache) else None

    def _prove(
        self, known: _ModelSteps, trace: "_Trace", ids: torch.Tensor, inputs: Mapping[str, Any]
    ) -> Any:
        """Forward by the modules and by the trace; return the outputs of the modules."""
        cache = inputs[self.cache_name]
        outputs = self.model(**inputs, return_dict=True)
        states = [layer.last_states() for layer in cache.layers]
        try:
            logits = trace.forward(ids, inputs, cache, again=True)
            same = torch.equal(logits, outputs.logits)
        except RuntimeError:  # with torch 2.6 some kernels hold the length of the traced step
            same = False
        for layer, (keys, values) in zip(cache.layers, states, strict=True):
            traced_keys, traced_values = layer.last_states()
            if not (torch.equal(traced_keys, keys) and torch.equal(traced_values, values)):
                same = False
                layer.replace_last_states(keys, values)
        if same:
            self._proven = trace
        else:
            known.trace, known.steps = None, 0
            known.failures += 1
            if known.failures >= _FAILURES:
                known.obstacle = "its trace does not give the bits of its modules"
        return outputs


def step_obstacle(model: Any, cache: Any) -> str | None:
    """Return why the steps of a model onto this cache cannot be traced now, or None."""
    return trace_obstacle(model) or _cache_obstacle(cache)


def _cache_obstacle(cache: Any) -> str | None:
    """Return why a step onto this cache cannot be traced, or None."""
    if not isinstance(cache, DynamicCache):
        return "cache"
    return None if all(type(each) is GrowingLayer for each in cache.layers) else "cache"


@dataclass(frozen=True, slots=True, eq=False)
class _Trace:
    """The operations of a step of one model."""

    traced: TracedModel
    constants: Mapping[str, Any]
    """The arguments of the traced forward that are no tensors."""
    layers: int

    def applies(self, inputs: Mapping[str, Any], cache: Any) -> bool:
        """Return whether a step with these inputs can be taken from the trace now."""
        return (
            self.traced.applies()
            and _constants(inputs) == self.constants
            and _cache_obstacle(cache) is None
            and len(cache.layers) == self.layers
        )

    def forward(
        self, ids: torch.Tensor, inputs: Mapping[str, Any], cache: Any, *, again: bool = False
    ) -> torch.Tensor:
        """Return the logits after the last of `ids`, which the cache gets unless it has it.

        Its keys and values are written to the buffers of the cache, `again` over those of the
        modules.
        """
        tokens = ids.shape[1]
        buffers = [each for layer in cache.layers for each in layer.buffers_for(tokens)]
        logits = self.traced.forward(ids, inputs["input_ids"], inputs["position_ids"], *buffers)
        if not again:
            for layer in cache.layers:
                layer.take_written(tokens)
        return logits


def _constants(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a forward that are neither tensors nor the cache."""
    return {
        name: value for name, value in inputs.items() if not isinstance(value, torch.Tensor | Cache)
    }


def _trace(model: Any, cache_name: str, inputs: Mapping[str, Any], cache: Any) -> _Trace | str:
    """Trace a step of a model on a copy of its cache; return why if that is not possible."""
    if set(inputs) != _INPUTS | {cache_name}:
        return f"arguments {sorted(inputs)}"
    constants = _constants(inputs)
    buffers = [
        torch.cat((states, states[:, :, -1:]), dim=2)
        for layer in cache.layers
        for states in (layer.keys, layer.values)
    ]

    def step(
        twin: Any,
        ids: torch.Tensor,
        input_ids: torch.Tensor,
        position_ids: torch.Tensor,
        *buffers: torch.Tensor,
    ) -> torch.Tensor:
        given = {"input_ids": input_ids, "position_ids": position_ids, **constants}
        given[cache_name] = _traced_cache(ids, buffers)
        logits: torch.Tensor = twin(**given, return_dict=True).logits
        return logits

    ids = inputs["input_ids"].new_zeros((1, cache.get_seq_length() + 1))
    tensors = (ids, inputs["input_ids"], inputs["position_ids"], *buffers)
    traced = trace_model(model, step, tensors)
    if isinstance(traced, str):
        return traced
    return _Trace(traced=traced, constants=constants, layers=len(cache.layers))


class _TracedLayer(DynamicLayer):  # type: ignore[no-untyped-call]
    """A layer of a cache whose length is that of a traced tensor, in buffers of any capacity."""

    def __init__(self, ids: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.keys, self.values = keys, values
        self.dtype, self.device = keys.dtype, keys.device
        self.is_initialized = True
        self._ids = ids

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write the states of one token, shape (1, heads, 1, dim); return all up to it."""
        assert self.keys is not None
        assert self.values is not None
        tokens = self._ids.shape[1]
        self.keys[:, :, tokens - 1 : tokens] = key_states
        self.values[:, :, tokens - 1 : tokens] = value_states
        return self.keys[:, :, :tokens], self.values[:, :, :tokens]

    def get_seq_length(self) -> int:
        return int(self._ids.shape[1]) - 1


def _traced_cache(ids: torch.Tensor, buffers: tuple[torch.Tensor, ...]) -> Cache:
    cache = DynamicCache()
    cache.layers = [
        _TracedLayer(ids, keys, values)
        for keys, values in zip(buffers[::2], buffers[1::2], strict=True)
    ]
    return cache
