"""The second way in: `model.generate(..., custom_generate=tokentape.decode, recorder=...)`.

transformers prepares everything and calls `decode`, but drops some of it on the way: the
call's tokenizer and streamer never arrive, and `stop_strings` is refused because that tokenizer is
missing. Pass `text_tokenizer`, a `callback`, and a `StopStringCriteria` among the
`stopping_criteria` instead.
"""

import time
from typing import Any, cast

import torch
from transformers import (
    GenerationConfig,
    LogitsProcessorList,
    PreTrainedTokenizerBase,
    StoppingCriteriaList,
)
from transformers.generation.utils import GenerateDecoderOnlyOutput

from tokentape.generation import hf
from tokentape.generation.cache.key import cache_key
from tokentape.generation.cache.reuse import Reuse
from tokentape.generation.callbacks import StateObserver, TokenCallback
from tokentape.generation.checks import check_adapters, check_not_training, check_seed
from tokentape.generation.engine import memory
from tokentape.generation.engine.token_sequence import TokenSequence, decode_reply
from tokentape.generation.engine.turn_recorder import TurnRecorder
from tokentape.generation.errors import ModelError, PromptError
from tokentape.generation.history.prompt import OWN_PROMPT, Prompt
from tokentape.generation.hooks.model_use import exclusive_use
from tokentape.generation.models.identity import ModelIdentity
from tokentape.generation.run_settings import NO_HISTORY, History, RunSettings
from tokentape.recorder import Recorder
from tokentape.recorder.events import CacheDecision, CacheSource

_SETTINGS = RunSettings(history=cast("History", NO_HISTORY))


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
    """Generate as `_sample` of transformers does; each call is a recorded turn of one sequence.

    Return what `generate` returns for these settings. A `recorder` needs `text_tokenizer`: the
    recording says which tokenizer it was, and what the ids spell. Without a `seed` tokens are drawn
    from torch's own generator, as `generate` draws them; such a turn can be replayed only if that
    generator was seeded right before the call.

    Raise ModelError or PromptError before anything is recorded, and TokentapeError for a recorder
    that another generator records with.

    Example:
        >>> import tokentape as tt
        >>> import torch
        >>> recorder = tt.Recorder(store)
        >>> ids = lm.model.generate(
        ...     torch.tensor([[5, 6, 7]]),
        ...     custom_generate=tt.decode,
        ...     recorder=recorder,
        ...     text_tokenizer=lm.tokenizer,
        ...     max_new_tokens=4,
        ...     do_sample=False,
        ... )
        >>> turn = store.recording(recorder.run_id).turns()[0]
        >>> list(turn.reply_ids) == ids[0, 3:].tolist()
        True
    """
    check_not_training(model)
    seed = check_seed(seed)
    _check_can_be_recorded(model, input_ids, recorder, text_tokenizer, model_kwargs)
    generator, known_seed = _generator(model, generation_config, seed)
    cache = model_kwargs[hf.cache_name(model)]
    held = hf.held_tokens(cache) or 0
    backend = hf.Decoder(model, generation_config, input_ids, cache, held=held)
    events = TurnRecorder(recorder=recorder, turn=1 if recorder is None else recorder.last_turn + 1)
    if recorder is not None and text_tokenizer is not None:
        recorder.claim(model)
        given = hf.Preparation(generation_config, logits_processor, stopping_criteria)
        _start_turn(events, recorder, model, text_tokenizer, given, backend, known_seed)
    returns_steps = generation_config.output_logits or generation_config.output_scores
    sequence = TokenSequence(
        ids=input_ids,
        prompt_tokens=int(input_ids.shape[1]),
        processors=logits_processor,
        criteria=stopping_criteria,
        generator=generator,
        top_logprobs=_SETTINGS.top_logprobs,
        events=events,
        cache=lambda: backend.cache,
        callback=callback,
        observer=observer,
        steps=[] if returns_steps else None,
    )
    with exclusive_use(model):
        _run(model, generation_config, backend, sequence, text_tokenizer)
    if not generation_config.return_dict_in_generate:
        return sequence.ids
    return _output(generation_config, sequence, backend.cache)


def _run(
    model: Any,
    config: GenerationConfig,
    backend: hf.Decoder,
    sequence: TokenSequence,
    tokenizer: PreTrainedTokenizerBase | None,
) -> None:
    """Prefill the prompt, decode the reply, and record both."""
    events, began = sequence.events, time.perf_counter()
    logits = _prefill(backend, model, config, events)
    with hf.decoding(model), events.spelling_tokens(tokenizer):
        stop_reason = decode_reply(backend, sequence, logits)
    if events.recorder is not None and tokenizer is not None:
        events.finished(
            tokenizer,
            backend.prompt[0].tolist(),
            sequence.token_ids,
            stop_reason=stop_reason,
            generator=sequence.generator,
            began=began,
        )


def _prefill(
    backend: hf.Decoder, model: Any, config: GenerationConfig, events: TurnRecorder
) -> torch.Tensor:
    began = time.perf_counter()
    memory.reset_peak(model.device)
    logits, chunks = backend.prefill(config.prefill_chunk_size)
    events.prefill_completed(
        chunks,
        began=began,
        kv_bytes=hf.kv_bytes(backend.cache),
        peak_bytes=memory.peak_bytes(model.device),
    )
    return logits


def _output(
    config: GenerationConfig, sequence: TokenSequence, cache: Any
) -> GenerateDecoderOnlyOutput:
    steps = sequence.steps or []
    return hf.generate_output(
        sequences=sequence.ids,
        scores=tuple(scores for _, scores in steps) if config.output_scores else None,
        logits=tuple(logits for logits, _ in steps) if config.output_logits else None,
        cache=cache,
    )


def _check_can_be_recorded(
    model: Any,
    input_ids: torch.Tensor,
    recorder: Recorder | None,
    tokenizer: PreTrainedTokenizerBase | None,
    model_kwargs: dict[str, Any],
) -> None:
    """Raise for what would be recorded wrongly, and for what `generate` gets wrong in silence."""
    check_adapters(model)
    hf.check_release(model)
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
    """Return the generator to draw from, and the seed that a replay needs if one is known."""
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


def _start_turn(
    events: TurnRecorder,
    recorder: Recorder,
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    given: hf.Preparation,
    backend: hf.Decoder,
    seed: int | None,
) -> None:
    """Record the run if this is its first call, then the beginning of the turn and its cache."""
    input_ids = backend.prompt
    settings, unreplayable = hf.recordable_settings(model, tokenizer, given, input_ids)
    if given.config.do_sample and seed is None:
        unreplayable = (*unreplayable, "global_random_state")
    if not recorder.started:
        ModelIdentity(model, tokenizer).record_start(
            recorder, name="generate", seed=None, model="", settings=_SETTINGS.to_record()
        )
    prompt = _prompt_of(tokenizer, input_ids)
    events.started(
        prompt,
        seed=seed,
        sampling=settings,
        own_settings=hf.own_settings(given.config),
        unreplayable=unreplayable,
    )
    events.cache_decided(
        _given_cache(backend.held),
        prompt_tokens=len(prompt.ids),
        key=cache_key(model, given.config),
    )


def _prompt_of(tokenizer: PreTrainedTokenizerBase, input_ids: torch.Tensor) -> Prompt:
    ids = tuple(input_ids[0].tolist())
    text = str(tokenizer.decode(list(ids), skip_special_tokens=False))
    return Prompt(
        ids=ids,
        text=text,
        messages=(),
        kept_tokens=0,
        kept_chars=0,
        added_ids=ids,
        added_text=text,
        history_reason=OWN_PROMPT,
    )


def _given_cache(held: int) -> Reuse:
    """Return the cache decision for `past_key_values` that hold so many tokens of the prompt."""
    if not held:
        return Reuse(decision=CacheDecision.MISS, reason="cold")
    return Reuse(
        decision=CacheDecision.HIT,
        reason="past_key_values",
        reused_tokens=held,
        cached_tokens=held,
        source=CacheSource.GIVEN,
    )
