"""Forwards of one sequence, as `generate` of transformers runs them."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from transformers import GenerationConfig
from transformers.cache_utils import Cache
from transformers.modeling_outputs import CausalLMOutputWithPast

from tokentape.generation.errors import ModelError
from tokentape.generation.hf.caches import (
    cache_argument,
    cache_name,
    held_tokens,
    keeps_all_tokens,
    prefix_obstacle,
)
from tokentape.generation.hf.layer_cast import keeping_scratch
from tokentape.generation.hf.packed_tensors import has_packed_weights
from tokentape.generation.hf.signatures import accepts, unwrapped
from tokentape.generation.hf.traced_step import StepForwards
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
        self.steps = StepForwards(model, self._name)
        self._inputs: dict[str, Any] = {self._name: cache, "use_cache": True}
        self._inputs["attention_mask"] = None
        if accepts(unwrapped(model).forward, "position_ids"):
            # The positions of the complete prompt, even if part of it is cached. `generate` derives
            # them from an all-ones mask, which it then drops.
            mask = torch.ones_like(prompt)
            self._inputs["position_ids"] = model._prepare_position_ids_for_generation(
                prompt, {"attention_mask": mask}
            )
        if accepts(unwrapped(model).forward, "logits_to_keep"):
            self._inputs["logits_to_keep"] = 1

    @property
    def cache(self) -> Cache:
        """The cache, which the model may have replaced."""
        cache: Cache = self._inputs[self._name]
        return cache

    def prefill(
        self,
        chunk_tokens: int | None = None,
        *,
        one_by_one: bool = False,
        between_chunks: Callable[[], None] | None = None,
    ) -> tuple[torch.Tensor, tuple[int, ...]]:
        """Forward the tokens that are not cached; return the last logits and the chunk lengths.

        `one_by_one` forwards single tokens, for models that ignore their recurrent state when they
        get several tokens. `between_chunks` is called after each forward but the last. Raise
        ModelError if the model does not fill its cache.
        """
        if one_by_one and self.held > 0:
            chunk_tokens = 1
        elif held_tokens(self.cache) is None:
            # transformers splits a prefill only where the cache counts its tokens.
            chunk_tokens = None
        chunks = _chunks(self.prompt.shape[1] - self.held, chunk_tokens)
        logits = self.prefill_chunks(chunks, one_by_one=one_by_one, between_chunks=between_chunks)
        return logits, chunks

    def prefill_chunks(
        self,
        chunks: tuple[int, ...],
        *,
        one_by_one: bool = False,
        between_chunks: Callable[[], None] | None = None,
    ) -> torch.Tensor:
        """Forward the tokens that are not cached in chunks of these lengths, whose sum they are.

        Return the logits of the last position. The keywords and errors are those of `prefill`.
        """
        is_first_iteration = not (one_by_one and self.held > 0)
        try:
            with self._forwarding():
                outputs = self._forward_chunks(
                    chunks, is_first_iteration=is_first_iteration, between_chunks=between_chunks
                )
        except AttributeError as error:
            name = type(self._model).__name__
            raise ModelError(f"{name} fills no cache: {error}") from None
        self.held += sum(chunks)
        return self._logits(outputs)

    def _forward_chunks(
        self,
        chunks: tuple[int, ...],
        *,
        is_first_iteration: bool,
        between_chunks: Callable[[], None] | None,
    ) -> Any:
        """Forward the prompt's tokens after those held, in chunks; return the last outputs."""
        outputs: Any = None
        positions = self._inputs.get("position_ids")
        end = self.held
        for tokens in chunks:
            if outputs is not None and between_chunks is not None:
                between_chunks()
            end += tokens
            if positions is not None:
                self._inputs["position_ids"] = positions[..., :end]
            inputs = self._model.prepare_inputs_for_generation(
                self.prompt[:, :end],
                next_sequence_length=tokens,
                is_first_iteration=is_first_iteration,
                **self._inputs,
            )
            outputs = self._model(**inputs, return_dict=True)
            # Some models replace their cache.
            self._inputs[self._name] = getattr(outputs, self._name, None) or self.cache
        return outputs

    def holds(self, cache: Cache, tokens: int) -> bool:
        """Return whether `cache` is the live cache and holds exactly this many tokens.

        Some models replace or ignore the cache that they are given.
        """
        mine = self._inputs.get(self._name) is cache
        return mine and held_tokens(cache) in (None, tokens) and self.held == tokens

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Forward the last of `ids`, shape (1, tokens), onto the cache. Return its logits."""
        with self._forwarding():
            outputs = self.steps.forward(ids, self.inputs_of_step(ids))
        self.held += 1
        return self._logits(outputs)

    def inputs_of_step(self, ids: torch.Tensor) -> dict[str, Any]:
        """Return the arguments of the model's forward for the last of `ids`."""
        inputs: dict[str, Any] = self._model.prepare_inputs_for_generation(
            ids, next_sequence_length=1, **self._inputs
        )
        return inputs

    def logits_of_step(self, logits: torch.Tensor) -> torch.Tensor:
        """Take the logits of a token that was forwarded onto the cache outside of `forward`.

        They have shape (1, tokens, vocab); return those of the last one as `forward` does.
        """
        self.held += 1
        return self._logits(CausalLMOutputWithPast(logits=logits))

    @property
    def allows_inference_mode(self) -> bool:
        """Whether torch's inference mode has no side effects on this sequence and this model."""
        return self._forwarding is torch.inference_mode

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
    buffers of growing layers are ordinary tensors. Packed weights of some libraries refuse it.
    """
    return (
        keeps_all_tokens(cache)
        and prefix_obstacle(model) is None
        and not has_packed_weights(model)
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
    with getattr(model, "_optimize_model_for_decode", nullcontext)(), keeping_scratch():
        yield


def forward_rows(model: Any, ids: torch.Tensor, cache: Cache, rows: torch.Tensor) -> torch.Tensor:
    """Forward ids, shape (1, tokens), onto a cache; return the logits of rows, (1, rows, vocab)."""
    selected = (
        {"logits_to_keep": rows} if accepts(unwrapped(model).forward, "logits_to_keep") else {}
    )
    logits: torch.Tensor = model(
        input_ids=ids, use_cache=True, return_dict=True, **cache_argument(model, cache), **selected
    ).logits
    return logits if selected else logits[:, rows]
