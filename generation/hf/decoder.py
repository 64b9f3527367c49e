"""Forwards of one sequence, as `_prefill` and `_sample` of transformers run them."""

import copy
import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers import GenerationConfig
from transformers.cache_utils import Cache

from tokentape.generation.errors import ModelError
from tokentape.generation.hf.caches import (
    cache_name,
    held_tokens,
    keeps_all_tokens,
    prefix_obstacle,
)
from tokentape.generation.hooks.hook_types import foreign_hooks


class Decoder:
    """Forwards one sequence through a model and fills its cache.

    All logits are as `generate(output_logits=True)` returns them: float32, shape (1, vocab).
    """

    def __init__(
        self,
        model: Any,
        config: GenerationConfig,
        prompt: torch.Tensor,
        cache: Cache,
        *,
        held: int = 0,
    ) -> None:
        """Start with the complete prompt, shape (1, tokens); its first `held` tokens are cached.

        Raise ModelError if the cache counts another number.
        """
        counted = held_tokens(cache)
        if counted is not None and counted != held:
            raise ModelError(f"the cache holds {counted} tokens, but {held} were expected")
        self._model = model
        self._config = config
        self._name = cache_name(model)
        self.prompt = prompt
        self.held = held
        self._forwarding = (
            torch.inference_mode if _allows_inference_mode(model, cache) else torch.no_grad
        )
        self._inputs: dict[str, Any] = {self._name: cache, "use_cache": True}
        self._inputs["attention_mask"] = None
        if "position_ids" in inspect.signature(model.forward).parameters:
            # The positions of the complete prompt, even if part of it is cached. `generate` derives
            # them from an all-ones mask, which it then drops.
            mask = torch.ones_like(prompt)
            self._inputs["position_ids"] = model._prepare_position_ids_for_generation(
                prompt, {"attention_mask": mask}
            )
        if model._supports_logits_to_keep():
            self._inputs["logits_to_keep"] = 1

    @property
    def cache(self) -> Cache:
        """The cache, which the model may have replaced."""
        cache: Cache = self._inputs[self._name]
        return cache

    def prefill(
        self, chunk_tokens: int | None = None, *, one_by_one: bool = False
    ) -> tuple[torch.Tensor, tuple[int, ...]]:
        """Forward the tokens that are not cached; return the last logits and the chunk lengths.

        `one_by_one` forwards single tokens, for models that ignore their recurrent state when they
        get several tokens. Raise ModelError if the model does not fill its cache.
        """
        prompt_tokens = self.prompt.shape[1]
        new_tokens = prompt_tokens - self.held
        if self.held and (one_by_one or self._name != "past_key_values"):
            ends = range(self.held + 1, prompt_tokens + 1) if one_by_one else (prompt_tokens,)
            with self._forwarding():
                outputs, chunks = self._forward_up_to(ends)
        else:
            # transformers splits a prefill only where the cache has the usual name.
            split = chunk_tokens if self._name == "past_key_values" else None
            chunks = _chunks(new_tokens, split)
            config = copy.copy(self._config)
            config._mask_length = prompt_tokens
            config.prefill_chunk_size = split if len(chunks) > 1 else None
            try:
                with self._forwarding():
                    outputs = self._model._prefill(
                        self.prompt, config, self._inputs, is_first_iteration=True
                    )
            except AttributeError as error:
                name = type(self._model).__name__
                raise ModelError(f"{name} fills no cache: {error}") from None
        self.held = prompt_tokens
        return self._logits(outputs), chunks

    def _forward_up_to(self, ends: range | tuple[int, ...]) -> tuple[Any, tuple[int, ...]]:
        """Forward in chunks that end at `ends`; return the last outputs and the chunk lengths."""
        outputs: Any = None
        chunks: list[int] = []
        positions = self._inputs.get("position_ids")
        for end in ends:
            start = self.held + sum(chunks)
            if positions is not None:
                self._inputs["position_ids"] = positions[..., :end]
            inputs = self._model.prepare_inputs_for_generation(
                self.prompt[:, :end], next_sequence_length=end - start, **self._inputs
            )
            outputs = self._model(**inputs, return_dict=True)
            chunks.append(end - start)
        return outputs, tuple(chunks)

    def holds(self, cache: Cache, tokens: int) -> bool:
        """Return whether `cache` is the live cache and holds exactly this many tokens.

        Some models replace or ignore the cache that they are given.
        """
        mine = self._inputs.get(self._name) is cache
        return mine and held_tokens(cache) in (None, tokens) and self.held == tokens

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Forward the last of `ids`, shape (1, tokens), onto the cache. Return its logits."""
        inputs = self._model.prepare_inputs_for_generation(
            ids, next_sequence_length=1, **self._inputs
        )
        with self._forwarding():
            outputs = self._model(**inputs, return_dict=True)
        self.held += 1
        return self._logits(outputs)

    def _logits(self, outputs: Any) -> torch.Tensor:
        self._inputs = self._model._update_model_kwargs_for_generation(
            outputs, self._inputs, is_encoder_decoder=False
        )
        logits: torch.Tensor = outputs.logits[:, -1]
        return logits.to(copy=True, dtype=torch.float32, device=self.prompt.device)


def _allows_inference_mode(model: Any, cache: Cache) -> bool:
    """Return whether torch's inference mode, which saves about 3 % of a step, has no side effects.

    A tensor made in it cannot take part in a backward pass. It must not reach foreign hooks, models
    from outside of transformers, which may keep it, or states that are overwritten in place. The
    buffers of growing layers are ordinary tensors.
    """
    return (
        keeps_all_tokens(cache)
        and prefix_obstacle(model) is None
        and type(model).__module__.startswith("transformers.")
        and not any(
            foreign_hooks(module) or hasattr(module, "_hf_hook") for module in model.modules()
        )
    )


def _chunks(tokens: int, chunk_tokens: int | None) -> tuple[int, ...]:
    if chunk_tokens is None:
        return (tokens,)
    whole, rest = divmod(tokens, chunk_tokens)
    return (chunk_tokens,) * whole + ((rest,) if rest else ())


@contextmanager
def decoding(model: Any) -> Iterator[None]:
    """Enter the context of `generate()`'s loop, which changes how experts are computed on a GPU.

    The prefill is not within it.
    """
    with model._optimize_model_for_decode():
        yield


def forward_rows(model: Any, ids: torch.Tensor, cache: Cache, rows: torch.Tensor) -> torch.Tensor:
    """Forward ids, shape (1, tokens), onto a cache; return the logits of rows, (1, rows, vocab)."""
    selected = {"logits_to_keep": rows} if model._supports_logits_to_keep() else {}
    logits: torch.Tensor = model(
        input_ids=ids, **{cache_name(model): cache}, use_cache=True, return_dict=True, **selected
    ).logits
    return logits if selected else logits[:, rows]
