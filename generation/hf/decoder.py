"""Forwards as `_prefill` and `_sample` of transformers run them, one sequence at a time."""

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
    keeps_everything,
    prefix_obstacle,
)
from tokentape.generation.hooks.hook_types import foreign_hooks


class Decoder:
    """One sequence on its way through the model, and the cache it fills.

    Logits are returned as `generate(output_logits=True)` returns them: float32, shape (1, vocab).
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
        """`prompt` is the whole prompt, shape (1, tokens); the cache holds its first `held`.

        Raises ModelError where the cache says that it holds another number.
        """
        counted = held_tokens(cache)
        if counted is not None and counted != held:
            raise ModelError(f"the cache holds {counted} tokens, not the {held} it is said to hold")
        self._model = model
        self._config = config
        self._name = cache_name(model)
        self.prompt = prompt
        self.held = held
        self._forwarding = torch.inference_mode if _leaves_nothing(model, cache) else torch.no_grad
        self._inputs: dict[str, Any] = {self._name: cache, "use_cache": True}
        self._inputs["attention_mask"] = None
        if "position_ids" in inspect.signature(model.forward).parameters:
            # The positions of the whole prompt, as for a sequence without a cache: `generate`
            # makes them from an all-ones mask, which it then drops.
            mask = torch.ones_like(prompt)
            self._inputs["position_ids"] = model._prepare_position_ids_for_generation(
                prompt, {"attention_mask": mask}
            )
        if model._supports_logits_to_keep():
            self._inputs["logits_to_keep"] = 1

    @property
    def cache(self) -> Cache:
        cache: Cache = self._inputs[self._name]
        return cache

    def prefill(
        self, chunk_tokens: int | None = None, *, one_by_one: bool = False
    ) -> tuple[torch.Tensor, tuple[int, ...]]:
        """Forward what the cache does not hold; the last logits and the lengths of the forwards.

        `one_by_one` is for models that read several tokens at once as if nothing were before them.
        """
        prompt_tokens = self.prompt.shape[1]
        new_tokens = prompt_tokens - self.held
        if self.held and (one_by_one or self._name != "past_key_values"):
            ends = range(self.held + 1, prompt_tokens + 1) if one_by_one else (prompt_tokens,)
            with self._forwarding():
                outputs, chunks = self._go_on(ends)
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

    def _go_on(self, ends: range | tuple[int, ...]) -> tuple[Any, tuple[int, ...]]:
        """Forwards up to each of `ends`, behind what the cache holds; the outputs of the last."""
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


def _leaves_nothing(model: Any, cache: Cache) -> bool:
    """Whether torch's inference mode, which spares some three in a hundred of a step, is unseen.

    What is made in it can never be part of a backward pass. That may not befall what a hook that is
    not ours takes out of the model, what a model of other people keeps for later, or states that
    are written to in place; keys and values that grow lie in ordinary tensors.
    """
    return (
        keeps_everything(cache)
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
    """The context of `generate()`'s loop, which its prefill is not in: experts on a GPU differ."""
    with model._optimize_model_for_decode():
        yield


def forward_rows(model: Any, ids: torch.Tensor, cache: Cache, rows: torch.Tensor) -> torch.Tensor:
    """Forward ids, shape (1, tokens), onto a cache; logits of the rows only, (1, rows, vocab)."""
    keeps = {"logits_to_keep": rows} if model._supports_logits_to_keep() else {}
    logits: torch.Tensor = model(
        input_ids=ids, **{cache_name(model): cache}, use_cache=True, return_dict=True, **keeps
    ).logits
    return logits if keeps else logits[:, rows]
