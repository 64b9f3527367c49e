"""The other way in: `model.generate(..., custom_generate=tokentape.decode, recorder=...)`.

transformers prepares everything and hands it over, less what it drops on the way in 5.23: the
tokenizer and the streamer of the call, which never arrive, and `stop_strings`, which it refuses
for want of that tokenizer. `text_tokenizer`, `callback` and a `StopStringCriteria` among the
`stopping_criteria` take their places.
"""

import time
from typing import Any

import torch
from transformers import (
    GenerationConfig,
    LogitsProcessorList,
    PreTrainedTokenizerBase,
    StoppingCriteriaList,
)
from transformers.generation.utils import GenerateDecoderOnlyOutput

from tokentape.generation import hf
from tokentape.generation.callbacks import StateObserver, TokenCallback
from tokentape.generation.checks import check_not_training
from tokentape.generation.engine import memory
from tokentape.generation.engine.token_loop import CANDIDATES, TokenLoop
from tokentape.generation.engine.turn import finished_turn
from tokentape.generation.errors import ModelError, PromptError
from tokentape.generation.models.loading import ModelIdentity
from tokentape.recorder import Recorder
from tokentape.recorder.events import (
    CacheDecided,
    PrefillCompleted,
    TurnStarted,
)


def decode(
    model: Any,
    input_ids: torch.Tensor,
    logits_processor: LogitsProcessorList,
    stopping_criteria: StoppingCriteriaList,
    generation_config: GenerationConfig,
    recorder: Recorder | None = None,
    text_tokenizer: PreTrainedTokenizerBase | None = None,
    seed: int | None = None,
    callback: TokenCallback | None = None,
    observer: StateObserver | None = None,
    **model_kwargs: Any,
) -> torch.Tensor | GenerateDecoderOnlyOutput:
    """Generate as `_sample` does, a recorded turn for each call. One sequence at a time.

    Without `seed` tokens are drawn from torch's own generator, as `generate` does; that can be
    replayed only where it was seeded right before. A recorder needs `text_tokenizer`, to say what
    ids mean and which tokenizer it was. Returns what `generate` returns for these settings.
    Raises ModelError and PromptError before anything is recorded, and TokentapeError for a recorder
    that somebody else records with.
    """
    check_not_training(model)
    _refuse(model, input_ids, recorder, text_tokenizer, model_kwargs)
    generator, known_seed = _generator(model, generation_config, seed)
    cache = model_kwargs[hf.cache_name(model)]
    held = hf.held_tokens(cache) or 0
    decoder = hf.Decoder(model, generation_config, input_ids, cache, held=held)
    call = _Call(recorder, text_tokenizer, model)
    if recorder is not None and text_tokenizer is not None:
        recorder.claim(model)
        given = hf.Preparation(generation_config, logits_processor, stopping_criteria)
        settings, own = hf.what_can_be_recorded(model, text_tokenizer, given, input_ids)
        if generation_config.do_sample and known_seed is None:
            own = (*own, "global_random_state")
        call.start(input_ids[0].tolist(), settings, known_seed, own, held)
    began = time.perf_counter()
    memory.reset_peak(model.device)
    logits, chunks = decoder.prefill(generation_config.prefill_chunk_size)
    call.prefilled(chunks, cache, began)
    kept: list[tuple[torch.Tensor, torch.Tensor]] = []
    keeps = generation_config.output_logits or generation_config.output_scores
    loop = TokenLoop(
        turn=call.turn,
        processors=logits_processor,
        criteria=stopping_criteria,
        generator=generator,
        candidates=CANDIDATES,
        record=call.record,
        callback=callback,
        observer=observer,
        keep_step=(lambda raw, scores: kept.append((raw, scores))) if keeps else None,
    )
    with hf.decoding(model):
        token_ids, stop_reason = loop.run(decoder, logits)
    call.finish(token_ids, stop_reason, generator, began)
    if not generation_config.return_dict_in_generate:
        return decoder.ids
    # Declared as tuples of one there.
    scores: Any = tuple(scores for _, scores in kept)
    raw: Any = tuple(logits for logits, _ in kept)
    sequences: Any = decoder.ids
    return GenerateDecoderOnlyOutput(
        sequences=sequences,
        scores=scores if generation_config.output_scores else None,
        logits=raw if generation_config.output_logits else None,
        past_key_values=decoder.cache,
    )


def _refuse(
    model: Any,
    input_ids: torch.Tensor,
    recorder: Recorder | None,
    tokenizer: PreTrainedTokenizerBase | None,
    model_kwargs: dict[str, Any],
) -> None:
    """What would be recorded wrongly, or what `generate` would silently get wrong."""
    if model.config.is_encoder_decoder or model_kwargs.get("inputs_embeds") is not None:
        raise ModelError("only decoders that are given token ids can be recorded")
    if input_ids.shape[0] != 1:
        raise ModelError("one sequence is generated at a time: no batch, no beams")
    mask = model_kwargs.get("attention_mask")
    if mask is not None and not bool((mask == 1).all()):
        raise ModelError("a prompt with padding cannot be replayed: leave it out")
    if recorder is not None and tokenizer is None:
        raise ModelError("to record pass text_tokenizer=, too: generate keeps tokenizer= to itself")
    cache = model_kwargs.get(hf.cache_name(model))
    if cache is None:
        raise ModelError("without a cache nothing can be generated token by token")
    held = hf.held_tokens(cache)
    if held is None and getattr(cache, "_is_user_defined", False):
        raise ModelError("this cache does not say how many tokens it holds: pass none")
    if (held or 0) >= input_ids.shape[1]:
        raise PromptError(
            f"the cache holds {held} tokens, the prompt {input_ids.shape[1]}: pass the whole "
            "prompt, with at least one token that is not cached"
        )


def _generator(
    model: Any, config: GenerationConfig, seed: int | None
) -> tuple[torch.Generator | None, int | None]:
    """What to draw from, and the seed from which that can be done again, if there is one."""
    if not config.do_sample:
        return None, None
    device = model.device
    if seed is not None:
        return torch.Generator(device=device).manual_seed(seed), seed
    own = torch.default_generator
    if device.type == "cuda":
        own = torch.cuda.default_generators[device.index or 0]
    known = own.initial_seed()
    fresh = torch.Generator(device=device).manual_seed(known)
    seeded_now = torch.equal(own.get_state(), fresh.get_state()) and known < 2**63
    return own, known if seeded_now else None


class _Call:
    """What a recorder is told of a call; nothing where there is none."""

    def __init__(
        self, recorder: Recorder | None, tokenizer: PreTrainedTokenizerBase | None, model: Any
    ) -> None:
        self._recorder = recorder
        self._tokenizer = tokenizer
        self._model = model
        self._prompt: tuple[int, ...] = ()
        self.turn = 1 if recorder is None else recorder.last_turn + 1

    def start(
        self,
        prompt: list[int],
        sampling: dict[str, Any],
        seed: int | None,
        unreplayable: tuple[str, ...],
        held: int,
    ) -> None:
        self._prompt = tuple(prompt)
        if self._recorder is None or self._tokenizer is None:
            return
        if not self._recorder.started:
            identity = ModelIdentity(self._model, self._tokenizer)
            behaviour = {"candidates": CANDIDATES, "history": "custom_generate"}
            identity.record_start(
                self._recorder, name="generate", seed=None, model="", behaviour=behaviour
            )
        self.record(
            TurnStarted(
                turn=self.turn,
                prompt_tokens=len(prompt),
                kept_tokens=0,
                kept_chars=0,
                added_ids=self._prompt,
                added_text=str(self._tokenizer.decode(prompt, skip_special_tokens=False)),
                history_reason="own_prompt",
                seed=seed,
                sampling=sampling,
                unreplayable=unreplayable,
            )
        )
        self.record(
            CacheDecided(
                turn=self.turn,
                decision="hit" if held else "miss",
                reason="past_key_values" if held else "cold",
                prompt_tokens=len(prompt),
                reused_tokens=held,
                computed_tokens=len(prompt) - held,
                cached_tokens=held,
                cropped_tokens=0,
                source="given" if held else "",
            )
        )

    def prefilled(self, chunks: tuple[int, ...], cache: Any, began: float) -> None:
        self.record(
            PrefillCompleted(
                turn=self.turn,
                chunks=chunks,
                duration_ms=(time.perf_counter() - began) * 1000.0,
                kv_bytes=hf.kv_bytes(cache),
                peak_bytes=memory.peak_bytes(self._model.device),
            )
        )

    def finish(
        self,
        token_ids: tuple[int, ...],
        stop_reason: str,
        generator: torch.Generator | None,
        began: float,
    ) -> None:
        if self._tokenizer is None:
            return
        self.record(
            finished_turn(
                self._tokenizer,
                self._prompt,
                token_ids,
                turn=self.turn,
                stop_reason=stop_reason,
                generator=generator,
                duration_ms=(time.perf_counter() - began) * 1000.0,
            )
        )

    def record(self, event: Any) -> None:
        if self._recorder is not None:
            self._recorder.record(event)
