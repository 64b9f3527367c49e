"""The engine: a prompt, the part of it that is cached, and a token at a time."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch
from transformers import (
    LogitsProcessorList,
    PreTrainedTokenizerBase,
    StoppingCriteriaList,
)
from transformers.cache_utils import Cache

from generation import hf, memory
from generation.cache_key import cache_key
from generation.checks import refuse_beyond_context, refuse_training, refuse_unreadable
from generation.conversation import Conversation, Prompt, decode_after
from generation.errors import PromptError
from generation.models import ModelIdentity
from generation.prefix_cache import CachedPrefix, PrefixCache, Reuse
from generation.sampling import choose, generator_sha256
from generation.turn import (
    GenerationResult,
    TokenCallback,
    TurnResult,
    TurnSettings,
    turn_settings,
)
from recorder import Recorder, TokentapeError
from recorder.events import (
    CacheCleared,
    CacheDecided,
    Event,
    PrefillCompleted,
    RunStarted,
    SystemPromptCached,
    TokenSampled,
    TurnFinished,
    TurnStarted,
    ids_sha256,
)

# Bounds the memory of a prefill; the matrices are large enough by then to be computed at full
# speed.
PREFILL_CHUNK_TOKENS = 512
CANDIDATES = 5


class ManualGenerator:
    """Generates token by token, reuses what is cached, and records each step if asked to.

    A prompt is a string, which is one user message after the cached system prompt (plain text
    where the tokenizer has no chat template), or token ids, which are taken as they are.
    Settings mean what they mean in `model.generate`, and those that are left out do, too.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: PreTrainedTokenizerBase,
        recorder: Recorder | None = None,
        *,
        name: str = "generation",
        model_name: str = "",
        seed: int | None = None,
        identity: ModelIdentity | None = None,
        prefill_chunk_tokens: int | None = PREFILL_CHUNK_TOKENS,
        candidates: int = CANDIDATES,
        history: str = "exact",
    ) -> None:
        """`name`, `model_name` and `seed` describe the run to the recorder; without one they rest.

        `history` is `exact` or `template`; see `Conversation`.
        Raises ModelError for a model in training mode: dropout cannot be replayed. Raises
        TokentapeError for a recorder that has recorded already: a run has one generator.
        """
        if recorder is not None and recorder.started:
            raise TokentapeError("this recorder has a run already: make one for each generator")
        refuse_training(model)
        self.model = model
        self.tokenizer = tokenizer
        self.conversation = Conversation(tokenizer, history=history)
        self._recorder = recorder
        self._run: dict[str, Any] = {"name": name, "model": model_name, "seed": seed}
        self._identity = identity or ModelIdentity(model, tokenizer)
        self._prefill_chunk_tokens = prefill_chunk_tokens
        self._candidates = candidates
        self._cache = PrefixCache()
        self._turn = 0
        self._busy = False

    @property
    def turn(self) -> int:
        """The number of the last turn that began; zero before the first."""
        return self._turn

    def start_run(self) -> None:
        """Record what the run is, unless that was done. The first thing recorded does it, too."""
        if self._recorder is not None and not self._recorder.started:
            behaviour = {
                "prefill_chunk_tokens": self._prefill_chunk_tokens,
                "candidates": self._candidates,
                "history": self.conversation.history,
            }
            self._recorder.record(
                RunStarted(**self._run, **self._identity.described(), behaviour=behaviour)
            )

    def cache_system_prompt(self, system_prompt: str) -> None:
        """Process the system prompt once; every later prompt begins with it and reuses it.

        Begins a new conversation. Raises PromptError for an empty one or one that fills the
        model's context, and leaves everything as it was. Where the model's cache cannot be reused,
        or the template writes nothing before a user's message, nothing is processed yet.
        """
        self._refuse_while_busy()
        refuse_training(self.model)
        if not system_prompt.strip():
            raise PromptError("the system prompt is empty")
        conversation = Conversation(self.tokenizer, history=self.conversation.history)
        conversation.restart(system_prompt)
        refuse_beyond_context(self.model, len(conversation.ids), new_tokens=1)
        self.start_run()
        began = time.perf_counter()
        prefix, chunks = self._process(conversation.ids)
        self._record(
            SystemPromptCached(
                content=system_prompt,
                text=conversation.text,
                ids=conversation.ids,
                sha256=ids_sha256(conversation.ids),
                chunks=chunks,
                duration_ms=_ms_since(began),
                kv_bytes=hf.kv_bytes(prefix.cache) if prefix else 0,
            )
        )
        self._cache.clear()
        if prefix is not None:
            self._cache.pin(prefix)
        self.conversation = conversation

    def generate(
        self,
        prompt: str | Sequence[int],
        *,
        max_new_tokens: int = 100,
        temperature: float | None = None,
        top_p: float | None = None,
        do_sample: bool | None = None,
        use_cache: bool = True,
        seed: int | None = None,
        callback: TokenCallback | None = None,
        logits_processor: LogitsProcessorList | None = None,
        stopping_criteria: StoppingCriteriaList | None = None,
        **settings: Any,
    ) -> GenerationResult:
        """Generate from a prompt of its own: what was said in earlier calls is not part of it.

        `use_cache=False` computes the whole prompt anew. `seed` begins the random generator of
        this call (one is drawn and returned if it is left out); torch's own is never touched.
        `callback` sees each token id and its raw logits, float32 of shape (vocab,).
        Raises PromptError and ModelError before anything is generated or recorded.
        """
        given = {"temperature": temperature, "top_p": top_p, "do_sample": do_sample}
        settings |= {name: value for name, value in given.items() if value is not None}
        result = self.take_turn(
            self.conversation.own_prompt(prompt),
            turn_settings(
                self.model,
                max_new_tokens=max_new_tokens,
                seed=seed,
                use_cache=use_cache,
                callback=callback,
                logits_processor=logits_processor,
                stopping_criteria=stopping_criteria,
                **settings,
            ),
        )
        return GenerationResult(
            generated_text=result.text,
            generated_tokens=list(result.token_ids),
            num_tokens=len(result.token_ids),
            cache_used=result.cache.reused_tokens > 0,
            stop_reason=result.stop_reason,
            seed=result.seed,
            prompt_tokens=result.cache.prompt_tokens,
            cache=result.cache,
        )

    def take_turn(self, prompt: Prompt, settings: TurnSettings) -> TurnResult:
        """Give the model the prompt and let it reply. What is refused is refused before the turn.

        After an exception from inside the turn, such as one of the callback, the turn stays
        unfinished in the recording, and what was cached of it is given up.
        """
        self._refuse_while_busy()
        self._busy = True
        try:
            return self._take_turn(prompt, settings)
        finally:
            self._busy = False

    def _take_turn(self, prompt: Prompt, settings: TurnSettings) -> TurnResult:
        refuse_training(self.model)
        refuse_unreadable(self.model, prompt.ids)
        new_tokens = int(settings.config.max_new_tokens or 0)
        refuse_beyond_context(self.model, len(prompt.ids), new_tokens)
        prepared = hf.prepare(
            self.model,
            self.tokenizer,
            settings.config,
            self._tensor(prompt.ids),
            processors=settings.processors,
            criteria=settings.criteria,
        )
        sampling = hf.recordable(settings.config)
        generator = self._generator(settings.seed)
        obstacle = hf.reuse_obstacle(self.model)
        self.start_run()
        began = time.perf_counter()
        self._turn += 1
        for event in prompt.events(self._turn):
            self._record(event)
        self._record(
            TurnStarted(
                turn=self._turn,
                prompt_tokens=len(prompt.ids),
                kept_tokens=prompt.kept_tokens,
                kept_chars=prompt.kept_chars,
                added_ids=prompt.added_ids,
                added_text=prompt.added_text,
                history_reason=prompt.history_reason,
                seed=settings.seed,
                sampling=sampling,
                unreplayable=settings.unreplayable,
            )
        )
        self.conversation.begin_turn(prompt)
        key = cache_key(self.model)
        decided, cache = self._start_cache(prompt, key, obstacle, settings.use_cache)
        self._record(decided)
        decoder, logits = self._prefill(prompt, prepared, cache)
        with hf.decoding(self.model):
            token_ids, stop_reason = self._decode(decoder, logits, settings, prepared, generator)
        # A callback may have changed the model in the middle of what the cache holds.
        if obstacle is None and decoder.fills(cache) and cache_key(self.model) == key:
            self._cache.keep(CachedPrefix((*prompt.ids, *token_ids[:-1]), cache, key))
        return self._finish(prompt, settings, decided, token_ids, stop_reason, generator, began)

    def clear_cache(self, reason: str = "asked") -> None:
        """Free everything that is cached, the system prompt's part too."""
        freed = self._cache.clear()
        if self._recorder is not None and self._recorder.started:
            self._record(CacheCleared(reason=reason, freed_bytes=freed))

    def _process(self, ids: Sequence[int]) -> tuple[CachedPrefix | None, tuple[int, ...]]:
        """Forward ids for a cache of their own, unless none could be reused."""
        if not ids or hf.reuse_obstacle(self.model) is not None:
            return None, ()
        cache, key = hf.new_cache(self.model), cache_key(self.model)
        config = hf.effective_config(self.model)
        decoder = hf.Decoder(self.model, config, self._tensor(ids), cache)
        _, chunks = decoder.prefill(self._prefill_chunk_tokens)
        return CachedPrefix(tuple(ids), cache, key), chunks

    def _start_cache(
        self, prompt: Prompt, key: Mapping[str, str], obstacle: str | None, use_cache: bool
    ) -> tuple[CacheDecided, Cache]:
        cache: Cache | None = None
        if not use_cache or obstacle is not None:
            reuse = Reuse(decision="bypass", reason=obstacle or "user_bypass")
        else:
            reuse, cache = self._cache.take(prompt.ids, key)
        decided = CacheDecided(
            turn=self._turn,
            prompt_tokens=len(prompt.ids),
            computed_tokens=len(prompt.ids) - reuse.reused_tokens,
            cropped_tokens=reuse.cropped_tokens,
            **asdict(reuse),
        )
        return decided, cache if cache is not None else hf.new_cache(self.model)

    def _prefill(
        self, prompt: Prompt, prepared: hf.Preparation, cache: Cache
    ) -> tuple[hf.Decoder, torch.Tensor]:
        """Forward what is not cached; the decoder and the logits after the prompt."""
        began = time.perf_counter()
        decoder = hf.Decoder(self.model, prepared.config, self._tensor(prompt.ids), cache)
        memory.reset_peak(self.model.device)
        logits, chunks = decoder.prefill(self._prefill_chunk_tokens)
        self._record(
            PrefillCompleted(
                turn=self._turn,
                chunks=chunks,
                duration_ms=_ms_since(began),
                kv_bytes=hf.kv_bytes(cache),
                peak_bytes=memory.peak_bytes(self.model.device),
            )
        )
        return decoder, logits

    def _decode(
        self,
        decoder: hf.Decoder,
        logits: torch.Tensor,
        settings: TurnSettings,
        prepared: hf.Preparation,
        generator: torch.Generator | None,
    ) -> tuple[tuple[int, ...], str]:
        """A token at a time until something stops it: the ids and the reason."""
        prompt_tokens = decoder.ids.shape[1]
        token_ids: list[int] = []
        began = time.perf_counter()
        while True:
            scores = hf.process(prepared.processors, decoder.ids, logits)
            choice = choose(logits, scores, generator=generator, candidates=self._candidates)
            decoder.append(choice.token)
            self._record(
                TokenSampled(
                    turn=self._turn,
                    step=len(token_ids),
                    position=prompt_tokens + len(token_ids),
                    token_id=choice.token_id,
                    logprob=choice.logprob,
                    logprob_processed=choice.logprob_processed,
                    entropy=choice.entropy,
                    top_gap=choice.top_gap,
                    duration_ms=_ms_since(began),
                    candidate_ids=choice.candidate_ids,
                    candidate_logprobs=choice.candidate_logprobs,
                )
            )
            token_ids.append(choice.token_id)
            if settings.callback is not None:
                settings.callback(choice.token_id, logits[0])
            stop_reason = hf.stop_reason(prepared.criteria, decoder.ids)
            if stop_reason is not None:
                return tuple(token_ids), stop_reason
            began = time.perf_counter()
            logits = decoder.forward_last()

    def _finish(
        self,
        prompt: Prompt,
        settings: TurnSettings,
        decided: CacheDecided,
        token_ids: tuple[int, ...],
        stop_reason: str,
        generator: torch.Generator | None,
        began: float,
    ) -> TurnResult:
        spoken = token_ids[:-1] if stop_reason == "eos" else token_ids
        text = decode_after(self.tokenizer, prompt.ids, spoken)
        whole = decode_after(self.tokenizer, prompt.ids, token_ids)
        stop_text = whole[len(text) :] if stop_reason == "eos" else ""
        duration_ms = _ms_since(began)
        self._record(
            TurnFinished(
                turn=self._turn,
                stop_reason=stop_reason,
                generated_tokens=len(token_ids),
                text=text,
                stop_text=stop_text,
                generator_sha256="" if generator is None else generator_sha256(generator),
                duration_ms=duration_ms,
            )
        )
        self.conversation.finish_turn(token_ids, text, stop_text)
        return TurnResult(
            turn=self._turn,
            prompt=prompt,
            token_ids=token_ids,
            text=text,
            stop_text=stop_text,
            stop_reason=stop_reason,
            seed=settings.seed,
            cache=decided,
            duration_ms=duration_ms,
        )

    def _refuse_while_busy(self) -> None:
        if self._busy:
            raise TokentapeError("a turn is under way: a callback cannot begin another")

    def _generator(self, seed: int | None) -> torch.Generator | None:
        if seed is None:
            return None
        return torch.Generator(device=self.model.device).manual_seed(seed)

    def _tensor(self, ids: Sequence[int]) -> torch.Tensor:
        return torch.tensor([list(ids)], dtype=torch.long, device=self.model.device)

    def _record(self, event: Event) -> None:
        if self._recorder is not None:
            self._recorder.record(event)


def _ms_since(began: float) -> float:
    return (time.perf_counter() - began) * 1000.0
