"""One turn of a model, recorded: what is cached, what is computed, and a token at a time."""

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from tokentape.generation import hf
from tokentape.generation.cache import (
    NO_TOKEN,
    CachedPrefix,
    CacheLease,
    Eviction,
    PrefixCache,
    cache_policy,
    salt_ids,
)
from tokentape.generation.checks import check_fits_context, check_not_training
from tokentape.generation.engine import memory
from tokentape.generation.engine.observers import TurnObservers, watching
from tokentape.generation.engine.prefill import prefill
from tokentape.generation.engine.prepared_turn import PreparedTurn, prepare_turn
from tokentape.generation.engine.threads import torch_threads
from tokentape.generation.engine.token_loop import TokenLoop
from tokentape.generation.engine.turn import TurnResult, TurnSettings, finished_turn, started_turn
from tokentape.generation.history.conversation import Conversation, Prompt, decode_after
from tokentape.generation.interventions import Intervention, InterventionController
from tokentape.generation.introspection.activations import ActivationMonitor
from tokentape.generation.models.loading import ModelIdentity
from tokentape.recorder import Recorder, TokentapeError
from tokentape.recorder.events import (
    CacheCleared,
    CacheDecided,
    CacheEvicted,
    Event,
    MessageAdded,
    PrefillCompleted,
    SystemPromptCached,
    ids_sha256,
)
from tokentape.recorder.events.turn import TOOL_CALL
from tokentape.recorder.projections import ActiveInterventions, RequestedInterventions, Turn

FOR_INTERVENTION = "intervention"
"""Why the cache is cleared where an intervention is asked for, or withdrawn, that way."""


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
        self.monitor: ActivationMonitor | None = None
        self._recorder = recorder
        self._identity = identity
        self._described = described
        self._behaviour = behaviour
        self._prefill_chunk_tokens = prefill_chunk_tokens
        self._candidates = candidates
        self._threads = threads
        self._busy, self._paused = False, False
        self.steering = InterventionController(model, recorder)
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
            check_not_training(self.model)
            check_fits_context(self.model, len(ids), new_tokens=1)
            policy = cache_policy(self.model)
            self.start_run()
            began = time.perf_counter()
            start: CacheLease | None = None
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
                self._record_evictions(self.cache.commit(start, ids, system=True))
            self.steering.restarted(len(ids))

    def take_turn(
        self, prompt: Prompt, settings: TurnSettings, conversation: Conversation
    ) -> TurnResult:
        """Give the model the prompt and let it reply. What is refused is refused before the turn.

        Settings with a `first_step` go on with the turn that was paused. After an exception from
        inside the turn, such as one of a callback, the turn stays unfinished in the recording, and
        what was cached of it is given up.
        """
        with self._working():
            ready = prepare_turn(self.model, self.tokenizer, prompt, settings)
            self._refuse_uncopied(settings)
            turn, step = self.turn + (settings.first_step == 0), settings.first_step
            plan = self.steering.plan(prompt, conversation.system_ids, turn=turn, first_step=step)
            start = self._begin(ready, plan.acting)
            self.start_run()
            self.steering.begin_part()
            self.turn, self._paused = turn, False
            for event in prompt.events(self.turn):
                within = settings.first_step > 0 and isinstance(event, MessageAdded)
                self._record(replace(event, turn=self.turn) if within else event)
            sampling = hf.recordable(settings.config)
            self._record(started_turn(prompt, settings, turn=self.turn, sampling=sampling))
            self.steering.begin(plan)
            return self._generate(ready, start, conversation)

    def resume_turn(
        self, turn: Turn, prompt: Prompt, settings: TurnSettings, conversation: Conversation
    ) -> TurnResult:
        """Go on with a turn of another process, of which some tokens may have been sampled.

        What comes are the tokens that would have come: the random stream goes on behind them.
        """
        with self._working():
            ready = prepare_turn(self.model, self.tokenizer, prompt, settings, turn.reply_ids)
            self.turn = turn.number
            stop_reason = self._stopped(ready)
            self.steering.begin_part()
            self.steering.resume(turn, prompt, conversation.system_ids)
            if stop_reason is None or turn.cache is None:
                start = self._begin(ready, self.steering.acting)
                return self._generate(ready, start, conversation)
            conversation.begin_turn(prompt)
            reply = _Reply(turn.reply_ids, stop_reason, turn.cache, time.perf_counter())
            return self._finish(ready, reply, conversation)

    def restore(
        self,
        turns: Sequence[Turn],
        asked: RequestedInterventions,
        read_blob: Callable[[str], bytes] | None,
    ) -> None:
        """Stand behind turns of another process; see `Steering.restore`."""
        self.steering.restore(
            turns[-1].acting if turns else ActiveInterventions(), asked, read_blob
        )
        if turns:
            finished = turns[-1].finished
            self.turn = turns[-1].number
            self._paused = finished is not None and finished.stop_reason == TOOL_CALL

    def store_prefix(self, ids: Sequence[int]) -> bool:
        """Keep on disk what is cached of these ids; False where that is nothing or cannot be."""
        with self._working():
            return self.cache.store_cached(ids)

    def clear_cache(self, reason: str) -> None:
        self._refuse_clearing()
        freed = self.cache.clear()
        if self._recorder is not None and self._recorder.started:
            self._record(CacheCleared(reason=reason, freed_bytes=freed))

    def intervene(self, intervention: Intervention, *, clear_cache: bool) -> None:
        """Have something done to activations from the next turn on; see `Steering.ask`."""
        with self._asked(clear_cache) as turn:
            self.steering.ask(intervention, from_start=clear_cache, turn=turn)

    def withdraw(self, name: str, *, clear_cache: bool) -> None:
        """Have it done no more from the next turn on; see `Steering.withdraw`."""
        with self._asked(clear_cache) as turn:
            self.steering.withdraw(name, from_start=clear_cache, turn=turn)

    @contextmanager
    def _asked(self, clear_cache: bool) -> Iterator[int | None]:
        """Around a request; the turn that is paused meanwhile, if one is."""
        with self._working():
            if clear_cache:
                self._refuse_clearing()
            yield self.turn if self._paused else None
        if clear_cache:
            self.clear_cache(FOR_INTERVENTION)

    def _refuse_clearing(self) -> None:
        if threading.get_ident() != self.steering.thread:
            raise TokentapeError("a tool cannot clear the cache: only who runs the turns can")

    def _refuse_uncopied(self, settings: TurnSettings) -> None:
        if settings.return_cache:
            self.cache.check_copyable(settings.config)

    def _begin(self, ready: PreparedTurn, acting: ActiveInterventions) -> CacheLease:
        settings = ready.settings
        return self.cache.acquire(
            salt_ids(ready.ids, acting.ranges),
            settings.config,
            total_tokens=len(ready.prompt.ids) + int(settings.config.max_new_tokens or 0),
            use_cache=settings.use_cache,
            given=settings.past_key_values,
        )

    def _stopped(self, ready: PreparedTurn) -> str | None:
        """Why a turn that is gone on with has stopped already; None where it has not."""
        if not ready.sampled:
            return None
        pauses = self._pauses(ready)
        ids = torch.tensor([ready.ids], dtype=torch.long, device=self.model.device)
        if (reason := hf.stop_reason(ready.preparation.criteria, ids)) is None:
            return TOOL_CALL if pauses is not None and pauses(ready.sampled) else None
        return reason

    def _generate(
        self, ready: PreparedTurn, start: CacheLease, conversation: Conversation
    ) -> TurnResult:
        """The turn, once its beginning is recorded."""
        began, watch = time.perf_counter(), memory.MemoryWatch.begin(self.model.device)
        prompt, settings = ready.prompt, ready.settings
        conversation.begin_turn(prompt)
        decided = self._decided(len(ready.ids), start)
        self._record(decided)
        held = start.reuse.reused_tokens
        watched = watching(
            self.model, self.monitor, settings.observe_layers, turn=self.turn, held_tokens=held
        )
        # Watchers come behind those who steer: they see what the layers really give.
        with self.steering.acting_from(held), watched as seen:
            decoder, logits = self._prefill(ready, start)
            seen.decodes()
            token_ids, stop_reason = self._decode(ready, decoder, logits, seen)
            self._record_seen(seen)
        returned = self._keep(start, decoder, (*prompt.ids, *token_ids[:-1]), settings)
        if self._recorder is not None:
            self._record(watch.sampled(self.turn, self.cache.kv_bytes))
        reply = _Reply(token_ids, stop_reason, decided, began)
        return self._finish(ready, reply, conversation, returned)

    def _finish(
        self,
        ready: PreparedTurn,
        reply: "_Reply",
        conversation: Conversation,
        returned: CachedPrefix | None = None,
    ) -> TurnResult:
        finished = finished_turn(
            self.tokenizer,
            ready.prompt.ids,
            reply.token_ids,
            turn=self.turn,
            stop_reason=reply.stop_reason,
            generator=ready.generator,
            duration_ms=_ms_since(reply.began),
        )
        self._record(finished)
        self._paused = reply.stop_reason == TOOL_CALL
        conversation.finish_turn(reply.token_ids, finished.text, finished.stop_text)
        return TurnResult(
            turn=self.turn,
            prompt=ready.prompt,
            token_ids=reply.token_ids,
            text=finished.text,
            stop_text=finished.stop_text,
            stop_reason=reply.stop_reason,
            seed=ready.settings.seed,
            cache=reply.decided,
            duration_ms=finished.duration_ms,
            first_step=ready.settings.first_step,
            past_key_values=returned,
        )

    def _pauses(self, ready: PreparedTurn) -> Callable[[Sequence[int]], bool] | None:
        """Whether the turn pauses behind these ids of its reply."""
        pauses, prompt_ids = ready.settings.pauses, ready.prompt.ids
        if pauses is None:
            return None
        return lambda ids: pauses(decode_after(self.tokenizer, prompt_ids, ids))

    def _record_seen(self, seen: TurnObservers) -> None:
        for event in seen.events():
            self._record(event)

    def _decode(
        self, ready: PreparedTurn, decoder: hf.Decoder, logits: torch.Tensor, seen: TurnObservers
    ) -> tuple[tuple[int, ...], str]:
        settings = ready.settings

        def between() -> None:
            self._record_seen(seen)
            if settings.between is not None:
                settings.between()

        loop = TokenLoop(
            turn=self.turn,
            first_step=settings.first_step,
            processors=ready.preparation.processors,
            criteria=ready.preparation.criteria,
            generator=ready.generator,
            candidates=self._candidates,
            record=self._record,
            callback=settings.callback,
            observer=self.steering.observing(settings.observer),
            hidden_states=seen.hidden_states,
            between=between,
            pauses=self._pauses(ready),
        )
        with hf.decoding(self.model):
            return loop.run(decoder, logits, ready.sampled)

    def _process(self, ids: Sequence[int]) -> tuple[CacheLease, tuple[int, ...]]:
        """A cache of exactly these ids, and the forwards that it took: none where it was kept."""
        config = hf.effective_config(self.model)
        start = self.cache.acquire((*ids, NO_TOKEN), config, total_tokens=len(ids) + 1)
        if start.reuse.reused_tokens == len(ids):
            return start, ()
        _, _, chunks = prefill(
            self.model, ids, start, config, chunk_tokens=self._prefill_chunk_tokens
        )
        return start, chunks

    def _store(self, start: CacheLease, ids: Sequence[int]) -> str:
        """Keep it on disk, too; why that failed. A full disk is no reason not to go on."""
        try:
            self.cache.store(start, ids)
        except OSError as error:
            return f"not_stored:{type(error).__name__}"
        return ""

    def _decided(self, tokens: int, start: CacheLease) -> CacheDecided:
        reuse = start.reuse
        return CacheDecided(
            turn=self.turn,
            prompt_tokens=tokens,
            computed_tokens=tokens - reuse.reused_tokens,
            cropped_tokens=reuse.cropped_tokens,
            **asdict(reuse),
        )

    def _prefill(self, ready: PreparedTurn, start: CacheLease) -> tuple[hf.Decoder, torch.Tensor]:
        """Forward what is not cached; the decoder and the logits behind it."""
        began = time.perf_counter()
        config = ready.preparation.config
        decoder, logits, chunks = prefill(
            self.model, ready.ids, start, config, chunk_tokens=self._prefill_chunk_tokens
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
            self._record_evictions(
                self.cache.commit_prompt(start, self.steering.salt_ids(ready.ids))
            )
        return decoder, logits

    def _keep(
        self, start: CacheLease, decoder: hf.Decoder, ids: tuple[int, ...], settings: TurnSettings
    ) -> CachedPrefix | None:
        """Keep the turn's cache, and copy it for the caller where that was asked for."""
        if not decoder.fills(start.cache):
            return None
        salted_ids = self.steering.salt_ids(ids)
        returned = self.cache.copy(start, salted_ids) if settings.return_cache else None
        self._record_evictions(self.cache.commit(start, salted_ids))
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

    def _record(self, event: Event) -> None:
        if self._recorder is not None:
            self._recorder.record(event)


@dataclass(frozen=True, slots=True)
class _Reply:
    """What was sampled, why it stopped, and when that began."""

    token_ids: tuple[int, ...]
    stop_reason: str
    decided: CacheDecided
    began: float


def _ms_since(began: float) -> float:
    return (time.perf_counter() - began) * 1000.0
