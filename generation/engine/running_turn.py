"""A round of a turn from its prefill to its reply."""

import time
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from tokentape.generation import hf
from tokentape.generation.batch import current_member
from tokentape.generation.cache import CachedPrefix, CacheLease, PrefixCache
from tokentape.generation.engine import memory
from tokentape.generation.engine.memory_guard import MemoryGuard
from tokentape.generation.engine.observers import TurnObservers, observe_forwards
from tokentape.generation.engine.prefill import prefill
from tokentape.generation.engine.prepared_turn import PreparedTurn
from tokentape.generation.engine.token_sequence import TokenSequence, decode_reply
from tokentape.generation.engine.turn import TurnResult
from tokentape.generation.engine.turn_recorder import TurnRecorder
from tokentape.generation.errors import PromptError
from tokentape.generation.history.incremental_decoder import IncrementalDecoder
from tokentape.generation.history.prompt import Prompt
from tokentape.generation.interventions import InterventionController
from tokentape.generation.introspection.activations import ActivationMonitor
from tokentape.recorder.events import CacheDecided
from tokentape.recorder.projections import Turn


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnResources:
    """What the turns of an engine share."""

    model: Any
    tokenizer: PreTrainedTokenizerBase
    cache: PrefixCache
    interventions: InterventionController
    prefill_chunk_tokens: int | None
    top_logprobs: int
    memory_guard: MemoryGuard = field(default_factory=MemoryGuard)


@dataclass(slots=True, kw_only=True)
class RunningTurn:
    """A round whose beginning is recorded; `run` generates its reply.

    If `run` raises, as a callback may, the turn stays unfinished in the recording and nothing that
    it computed is cached.
    """

    resources: TurnResources
    prepared: PreparedTurn
    lease: CacheLease
    """The cache that the prompt begins with."""
    events: TurnRecorder
    monitor: ActivationMonitor | None
    stop_reason: str = field(default="", init=False)
    """Why the reply stopped; empty until it has."""

    def run(self) -> TurnResult:
        """Generate the reply and commit its KV cache."""
        with self.events.spelling_tokens(self.resources.tokenizer):
            return self._run()

    def _run(self) -> TurnResult:
        began = time.perf_counter()
        model, prompt = self.resources.model, self.prepared.prompt
        self.resources.memory_guard.check(
            model,
            self.lease,
            self.prepared.preparation.config,
            turn=self.events.turn,
            prompt_tokens=len(self.prepared.ids),
            chunk_tokens=self.resources.prefill_chunk_tokens,
        )
        watch = memory.MemoryWatch.begin(model.device)
        decided = self.events.cache_decided(
            self.lease.reuse, prompt_tokens=len(self.prepared.ids), key=self.lease.key
        )
        held = self.lease.reuse.reused_tokens
        observing = observe_forwards(
            model,
            self.monitor,
            self.prepared.settings.observe_layers,
            turn=self.events.turn,
            cached_tokens=held,
        )
        # Hooks run in the order of their making: observers see what interventions changed.
        with self.resources.interventions.intervene_from(held), observing as observers:
            decoder, logits = self._prefill()
            observers.prefill_done()
            sequence = self._sequence(decoder, observers)
            stop_reason = self._decode(decoder, sequence, logits, observers)
            self.events.record_all(observers.events())
        token_ids = tuple(sequence.token_ids)
        returned = self._put_into_cache(decoder, (*prompt.ids, *token_ids[:-1]))
        if self.events.recorder is not None:
            self.events.record(watch.sampled(self.events.turn, self.resources.cache.kv_bytes))
        return finish_turn(
            self, token_ids, stop_reason, decided=decided, began=began, returned=returned
        )

    def _prefill(self) -> tuple[hf.Decoder, torch.Tensor]:
        began = time.perf_counter()
        model, cache = self.resources.model, self.lease.cache
        decoder, logits, chunks = prefill(
            model,
            self.prepared.input_ids,
            self.lease,
            self.prepared.preparation.config,
            chunk_tokens=self.resources.prefill_chunk_tokens,
        )
        self.events.prefill_completed(
            chunks,
            began=began,
            kv_bytes=hf.kv_bytes(cache),
            peak_bytes=memory.peak_bytes(model.device),
        )
        if decoder.holds(cache, len(self.prepared.ids)):
            salted = self.resources.interventions.salt_ids(self.prepared.ids)
            self.events.evicted(self.resources.cache.commit_prompt(self.lease, salted))
        return decoder, logits

    def _sequence(self, decoder: hf.Decoder, observers: TurnObservers) -> TokenSequence:
        prepared, settings = self.prepared, self.prepared.settings
        may_pause = prepared.plan.pauses is not None
        return TokenSequence(
            ids=prepared.input_ids,
            prompt_tokens=len(prepared.prompt.ids),
            processors=prepared.preparation.processors,
            criteria=prepared.preparation.criteria,
            generator=prepared.generator,
            top_logprobs=self.resources.top_logprobs,
            events=self.events,
            cache=lambda: decoder.cache,
            token_ids=list(prepared.sampled),
            forced_ids=prepared.forced_left,
            callback=settings.callback,
            observer=self.resources.interventions.observe_tokens(settings.observer),
            hidden_states=observers.hidden_states,
            pauses=_PauseCheck(self.resources.tokenizer, prepared) if may_pause else None,
            pause_reason=prepared.plan.pause_reason,
        )

    def _decode(
        self,
        decoder: hf.Decoder,
        sequence: TokenSequence,
        logits: torch.Tensor,
        observers: TurnObservers,
    ) -> str:
        caller = self.prepared.plan.between_tokens
        model, member = self.resources.model, current_member()

        def between_tokens() -> None:
            self.events.record_all(observers.events())
            if caller is not None:
                caller()
            if member is not None:
                member.stop.check()

        if member is None or not member.is_for(model):
            with hf.decoding(model):
                return decode_reply(decoder, sequence, logits, between_tokens=between_tokens)
        shared = member.backend(
            decoder,
            lambda step, obstacle: self.events.forwarded(
                rows=step.rows, row=step.row, obstacle=obstacle, step=len(sequence.token_ids)
            ),
        )
        return decode_reply(shared, sequence, logits, between_tokens=between_tokens)

    def _put_into_cache(self, decoder: hf.Decoder, ids: tuple[int, ...]) -> CachedPrefix | None:
        """Hand the lease's cache back with its ids. Return a copy if the caller wants one."""
        if not decoder.holds(self.lease.cache, len(ids)):
            return None
        cache, salted = self.resources.cache, self.resources.interventions.salt_ids(ids)
        wanted = self.prepared.settings.return_cache
        returned = cache.copy(self.lease, salted) if wanted else None
        self.events.evicted(cache.commit(self.lease, salted))
        return returned


@dataclass(slots=True, kw_only=True)
class StoppedTurn:
    """A round of another process whose last token was recorded, but not its end."""

    resources: TurnResources
    prepared: PreparedTurn
    events: TurnRecorder
    decided: CacheDecided
    reason: str
    stop_reason: str = field(default="", init=False)
    """As in `RunningTurn`."""

    def run(self) -> TurnResult:
        """Record the end of the round, with the tokens that it has."""
        began = time.perf_counter()
        return finish_turn(
            self, self.prepared.sampled, self.reason, decided=self.decided, began=began
        )


def record_start(events: TurnRecorder, prepared: PreparedTurn, prompt: Prompt) -> None:
    """Record the beginning of a round; `prompt` has the tokens that it continues."""
    events.started(
        prompt,
        seed=prepared.settings.seed,
        sampling=prepared.sampling,
        own_settings=prepared.own_settings,
        unreplayable=prepared.settings.unreplayable,
        forced_ids=prepared.plan.forced_ids,
    )


def check_continues(turn: Turn, stop_reason: str | None) -> None:
    """Raise PromptError if a reply whose first tokens a fork shares has stopped with them."""
    if stop_reason is not None:
        raise PromptError(
            f"the first {len(turn.tokens)} tokens of the reply end it already ({stop_reason}): "
            "fork at an earlier token, or change what stops the reply"
        )


def finish_turn(
    turn: RunningTurn | StoppedTurn,
    token_ids: tuple[int, ...],
    stop_reason: str,
    *,
    decided: CacheDecided,
    began: float,
    returned: CachedPrefix | None = None,
) -> TurnResult:
    """Record the reply. Return it as the result of the round."""
    prepared = turn.prepared
    finished = turn.events.finished(
        turn.resources.tokenizer,
        prepared.prompt.ids,
        token_ids,
        stop_reason=stop_reason,
        generator=prepared.generator,
        began=began,
    )
    turn.stop_reason = stop_reason
    return TurnResult(
        turn=turn.events.turn,
        prompt=prepared.prompt,
        token_ids=token_ids,
        text=finished.text,
        stop_text=finished.stop_text,
        stop_reason=stop_reason,
        seed=prepared.settings.seed,
        cache=decided,
        duration_us=finished.duration_us,
        first_step=turn.events.first_step,
        past_key_values=returned,
    )


class _PauseCheck:
    """Whether a round pauses after its newest token, with the reply decoded incrementally."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, prepared: PreparedTurn) -> None:
        self._pauses = prepared.plan.pauses
        self._decoder = IncrementalDecoder(tokenizer, prepared.prompt.ids)
        for token_id in prepared.sampled:
            self._decoder.add(token_id)

    def __call__(self, token_id: int) -> bool:
        self._decoder.add(token_id)
        return self.pauses_now()

    def pauses_now(self) -> bool:
        return self._pauses is not None and self._pauses(self._decoder.text)


def reason_to_stop(
    model: Any, tokenizer: PreTrainedTokenizerBase, prepared: PreparedTurn
) -> str | None:
    """Return why a resumed round has stopped already, or None if another token comes."""
    if not prepared.sampled:
        return None
    reason = hf.stop_reason(prepared.preparation.criteria, prepared.input_ids)
    if reason is not None:
        return reason
    paused = _PauseCheck(tokenizer, prepared).pauses_now()
    return prepared.plan.pause_reason if paused else None
