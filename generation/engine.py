"""One turn of a model, recorded: what is cached, what is computed, and a token at a time."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from generation import hf, memory
from generation.cache import (
    NO_TOKEN,
    CachedPrefix,
    Eviction,
    PrefixCache,
    Start,
    cache_policy,
)
from generation.checks import refuse_beyond_context, refuse_training, refuse_unreadable
from generation.history.conversation import Conversation, Prompt
from generation.models import ModelIdentity
from generation.threads import torch_threads
from generation.token_loop import TokenLoop
from generation.turn import TurnResult, TurnSettings, finished_turn
from recorder import Recorder, TokentapeError
from recorder.events import (
    CacheCleared,
    CacheDecided,
    CacheEvicted,
    Event,
    PrefillCompleted,
    SystemPromptCached,
    TurnStarted,
    ids_sha256,
)


class Engine:
    """Runs turns through a model and records each step if there is a recorder.

    `described` are the fields of `RunStarted` that describe the run, `behaviour` the choices that
    change what is generated or recorded.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: PreTrainedTokenizerBase,
        recorder: Recorder | None,
        *,
        identity: ModelIdentity,
        cache: PrefixCache,
        described: Mapping[str, Any],
        behaviour: Mapping[str, Any],
        prefill_chunk_tokens: int | None,
        candidates: int,
        threads: int | None,
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.cache = cache
        self.turn = 0
        self._recorder = recorder
        self._identity = identity
        self._described = described
        self._behaviour = behaviour
        self._prefill_chunk_tokens = prefill_chunk_tokens
        self._candidates = candidates
        self._threads = threads
        self._busy = False
        if recorder is not None:
            recorder.claim(self)

    def start_run(self) -> None:
        """Record what the run is, unless that was done. The first thing recorded does it, too."""
        if self._recorder is None or self._recorder.started:
            return
        with torch_threads(self._threads):
            behaviour = {**self._behaviour, "cache_policy": cache_policy(self.model).described()}
            self._identity.record_start(self._recorder, **self._described, behaviour=behaviour)

    def process_system_prompt(self, content: str, conversation: Conversation) -> None:
        """Put the beginning of a conversation into the cache, for good, where that can be done.

        Raises PromptError for one that fills the context, and changes nothing.
        """
        with self._working():
            ids = conversation.ids
            refuse_training(self.model)
            refuse_beyond_context(self.model, len(ids), new_tokens=1)
            policy = cache_policy(self.model)
            self.start_run()
            began = time.perf_counter()
            start: Start | None = None
            chunks: tuple[int, ...] = ()
            not_stored = ""
            if ids and policy.mode != "none":
                start, chunks = self._process(ids)
                not_stored = self._store(start, ids)
            self._record(
                SystemPromptCached(
                    content=content,
                    text=conversation.text,
                    ids=ids,
                    sha256=ids_sha256(ids),
                    chunks=chunks,
                    duration_ms=_ms_since(began),
                    kv_bytes=hf.kv_bytes(start.cache) if start is not None else 0,
                    source=start.reuse.source if start is not None and not chunks else "",
                    disk_reason=not_stored or (start.reuse.disk_reason if start else ""),
                )
            )
            if start is not None:
                self._record_evictions(self.cache.finish(start, ids, system=True))

    def take_turn(
        self, prompt: Prompt, settings: TurnSettings, conversation: Conversation
    ) -> TurnResult:
        """Give the model the prompt and let it reply. What is refused is refused before the turn.

        After an exception from inside the turn, such as one of a callback, the turn stays
        unfinished in the recording, and what was cached of it is given up.
        """
        with self._working():
            return self._take_turn(prompt, settings, conversation)

    def store_prefix(self, ids: Sequence[int]) -> bool:
        """Keep on disk what is cached of these ids; False where that is nothing or cannot be."""
        with self._working():
            return self.cache.store_held(ids)

    def clear_cache(self, reason: str) -> None:
        freed = self.cache.clear()
        if self._recorder is not None and self._recorder.started:
            self._record(CacheCleared(reason=reason, freed_bytes=freed))

    def _take_turn(
        self, prompt: Prompt, settings: TurnSettings, conversation: Conversation
    ) -> TurnResult:
        refuse_training(self.model)
        refuse_unreadable(self.model, prompt.ids)
        new_tokens = int(settings.config.max_new_tokens or 0)
        refuse_beyond_context(self.model, len(prompt.ids), new_tokens)
        ids = self._tensor(prompt.ids)
        hf.rehearse(self.model, self.tokenizer, settings.config, ids)
        prepared = hf.prepare(
            self.model,
            self.tokenizer,
            settings.config,
            ids,
            processors=settings.processors,
            criteria=settings.criteria,
        )
        sampling = hf.recordable(settings.config)
        generator = self._generator(settings.seed)
        if settings.return_cache:
            self.cache.refuse_uncopied(settings.config)
        start = self.cache.start(
            prompt.ids,
            settings.config,
            total_tokens=len(prompt.ids) + new_tokens,
            use_cache=settings.use_cache,
            given=settings.past_key_values,
        )
        self.start_run()
        began = time.perf_counter()
        self.turn += 1
        self._record_start(prompt, settings, sampling)
        conversation.begin_turn(prompt)
        decided = self._decided(prompt, start)
        self._record(decided)
        decoder, logits = self._prefill(prompt, prepared, start)
        loop = TokenLoop(
            turn=self.turn,
            processors=prepared.processors,
            criteria=prepared.criteria,
            generator=generator,
            candidates=self._candidates,
            record=self._record,
            callback=settings.callback,
            observer=settings.observer,
        )
        with hf.decoding(self.model):
            token_ids, stop_reason = loop.run(decoder, logits)
        returned = self._keep(start, decoder, (*prompt.ids, *token_ids[:-1]), settings)
        finished = finished_turn(
            self.tokenizer,
            prompt.ids,
            token_ids,
            turn=self.turn,
            stop_reason=stop_reason,
            generator=generator,
            duration_ms=_ms_since(began),
        )
        self._record(finished)
        conversation.finish_turn(token_ids, finished.text, finished.stop_text)
        return TurnResult(
            turn=self.turn,
            prompt=prompt,
            token_ids=token_ids,
            text=finished.text,
            stop_text=finished.stop_text,
            stop_reason=stop_reason,
            seed=settings.seed,
            cache=decided,
            duration_ms=finished.duration_ms,
            past_key_values=returned,
        )

    def _process(self, ids: Sequence[int]) -> tuple[Start, tuple[int, ...]]:
        """A cache of exactly these ids, and the forwards that it took: none where it was kept."""
        config = hf.effective_config(self.model)
        start = self.cache.start((*ids, NO_TOKEN), config, total_tokens=len(ids) + 1)
        chunks: tuple[int, ...] = ()
        if start.reuse.reused_tokens < len(ids):
            held = start.reuse.reused_tokens
            decoder = hf.Decoder(self.model, config, self._tensor(ids), start.cache, held=held)
            _, chunks = decoder.prefill(
                self._chunk_tokens(start, config), one_by_one=start.policy.continues == "tokens"
            )
        return start, chunks

    def _store(self, start: Start, ids: Sequence[int]) -> str:
        """Keep it on disk, too; why that failed. A full disk is no reason not to go on."""
        try:
            self.cache.store(start, ids)
        except OSError as error:
            return f"not_stored:{type(error).__name__}"
        return ""

    def _record_start(
        self, prompt: Prompt, settings: TurnSettings, sampling: Mapping[str, Any]
    ) -> None:
        for event in prompt.events(self.turn):
            self._record(event)
        self._record(
            TurnStarted(
                turn=self.turn,
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

    def _decided(self, prompt: Prompt, start: Start) -> CacheDecided:
        reuse = start.reuse
        return CacheDecided(
            turn=self.turn,
            prompt_tokens=len(prompt.ids),
            computed_tokens=len(prompt.ids) - reuse.reused_tokens,
            cropped_tokens=reuse.cropped_tokens,
            **asdict(reuse),
        )

    def _prefill(
        self, prompt: Prompt, prepared: hf.Preparation, start: Start
    ) -> tuple[hf.Decoder, torch.Tensor]:
        """Forward what is not cached; the decoder and the logits after the prompt."""
        began = time.perf_counter()
        decoder = hf.Decoder(
            self.model,
            prepared.config,
            self._tensor(prompt.ids),
            start.cache,
            held=start.reuse.reused_tokens,
        )
        memory.reset_peak(self.model.device)
        logits, chunks = decoder.prefill(
            self._chunk_tokens(start, prepared.config),
            one_by_one=start.policy.continues == "tokens",
        )
        self._record(
            PrefillCompleted(
                turn=self.turn,
                chunks=chunks,
                duration_ms=_ms_since(began),
                kv_bytes=hf.kv_bytes(start.cache),
                peak_bytes=memory.peak_bytes(self.model.device),
            )
        )
        if decoder.holds_prompt(start.cache):
            self._record_evictions(self.cache.prefilled(start, prompt.ids))
        return decoder, logits

    def _chunk_tokens(self, start: Start, config: Any) -> int | None:
        """The caller's own setting before the engine's, and neither where it would be inexact."""
        if not start.policy.splits_prefill:
            return None
        chunk_tokens: int | None = config.prefill_chunk_size or self._prefill_chunk_tokens
        return chunk_tokens

    def _keep(
        self, start: Start, decoder: hf.Decoder, ids: tuple[int, ...], settings: TurnSettings
    ) -> CachedPrefix | None:
        """Keep the turn's cache, and copy it for the caller where that was asked for."""
        if not decoder.fills(start.cache):
            return None
        returned = self.cache.copy(start, ids) if settings.return_cache else None
        self._record_evictions(self.cache.finish(start, ids))
        return returned

    def _record_evictions(self, evictions: Sequence[Eviction]) -> None:
        for each in evictions:
            self._record(CacheEvicted(**asdict(each)))

    @contextmanager
    def _working(self) -> Iterator[None]:
        if self._busy:
            raise TokentapeError("a turn is under way: a callback cannot begin another")
        self._busy = True
        try:
            # Of a caller's inference mode nothing may stay in what is kept for later turns.
            with torch_threads(self._threads), torch.inference_mode(False), torch.no_grad():
                yield
        finally:
            self._busy = False

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
