"""The engine: runs the turns of one model, one at a time, and records them."""

import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from tokentape.generation import hf
from tokentape.generation.cache import (
    CachedPrefix,
    CacheLease,
    PrefixCache,
    cache_policy,
    salt_ids,
)
from tokentape.generation.checks import check_fits_context, check_not_training, check_switch
from tokentape.generation.engine.prefill import SystemPrefill, prefill_alone
from tokentape.generation.engine.prepared_turn import PreparedTurn, prepare_turn
from tokentape.generation.engine.run_description import RunDescription
from tokentape.generation.engine.run_numerics import RunNumerics
from tokentape.generation.engine.running_turn import (
    RunningTurn,
    StoppedTurn,
    TurnResources,
    check_continues,
    reason_to_stop,
    record_start,
)
from tokentape.generation.engine.single_use import SingleUse
from tokentape.generation.engine.turn import RoundPlan, TurnSettings
from tokentape.generation.engine.turn_recorder import TurnRecorder
from tokentape.generation.errors import CallFormatWarning
from tokentape.generation.history.prompt import Prompt
from tokentape.generation.hooks.model_use import exclusive_use
from tokentape.generation.interventions import Intervention, InterventionController
from tokentape.generation.introspection.activations import ActivationMonitor
from tokentape.generation.models.identity import ModelIdentity
from tokentape.recorder import Recorder, TokentapeError
from tokentape.recorder.clock import elapsed_us
from tokentape.recorder.events import (
    CacheCleared,
    CacheMode,
    CacheSource,
    Event,
    RunForked,
    StopReason,
    SystemPromptCached,
    ids_sha256,
)
from tokentape.recorder.projections import ActiveInterventions, RequestedInterventions, Turn

FOR_INTERVENTION = "intervention"
"""The reason of `CacheCleared` when a change of the interventions clears the cache."""


class Engine:
    """A model with its cache and its interventions, which runs turns and records them.

    It takes prompts and knows no conversation. Without a recorder nothing is recorded.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: PreTrainedTokenizerBase,
        recorder: Recorder | None,
        *,
        identity: ModelIdentity,
        cache: PrefixCache,
        run: RunDescription,
    ) -> None:
        self.turn = 0
        self.monitor: ActivationMonitor | None = None
        self.interventions = InterventionController(model, recorder)
        self._resources = TurnResources(
            model=model,
            tokenizer=tokenizer,
            cache=cache,
            interventions=self.interventions,
            prefill_chunk_tokens=run.settings.prefill_chunk_tokens,
            top_logprobs=run.settings.top_logprobs,
        )
        self._model = model
        self._tokenizer = tokenizer
        self._cache = cache
        self._recorder = recorder
        self._identity = identity
        self._run = run
        self.numerics = RunNumerics(model, run.settings.threads)
        self._use = SingleUse("generator")
        self._paused = False
        self.forked: RunForked | None = None
        """The event that follows `RunStarted` in a fork."""
        if recorder is not None:
            recorder.claim(self)

    def start_run(self) -> None:
        """Record `RunStarted`, and `RunForked` of a fork, and warn the user if nothing is yet."""
        if self._recorder is None or self._recorder.started:
            return
        for each in self._run.warnings:
            warnings.warn(each, CallFormatWarning, stacklevel=2)
        with self.numerics.recorded():
            self._identity.record_start(
                self._recorder,
                name=self._run.name,
                model=self._run.model,
                seed=self._run.seed,
                settings=self._run.settings.to_record(),
                tools=self._run.tools,
                tool_sources=dict(self._run.tool_sources),
                conversation_format=self._run.conversation_format.to_record(),
                warnings=self._run.warnings,
                cache_policy=cache_policy(self._model).described(),
                context_tokens=self._context_tokens(),
            )
            if self.forked is not None:
                self._recorder.record(self.forked)

    def process_system_prompt(self, content: str, ids: tuple[int, ...], text: str) -> None:
        """Prefill a system prompt and hold it in the cache for all turns.

        `ids` and `text` are what a template makes of its `content`. A model whose cache cannot be
        reused forwards nothing here. Raise PromptError, and change nothing, if the system prompt
        fills the context.
        """
        with self._exclusive():
            check_not_training(self._model)
            check_fits_context(self._context_tokens(), len(ids), new_tokens=1)
            policy = cache_policy(self._model)
            self.start_run()
            began = time.perf_counter()
            prefilled: SystemPrefill | None = None
            disk_error = ""
            if ids and policy.mode is not CacheMode.NONE:
                chunk_tokens = self._resources.prefill_chunk_tokens
                prefilled = prefill_alone(self._model, self._cache, ids, chunk_tokens)
                disk_error = self._write_to_disk(prefilled.lease, ids)
            lease = None if prefilled is None else prefilled.lease
            self._record(
                SystemPromptCached(
                    content=content,
                    text=text,
                    ids=ids,
                    sha256=ids_sha256(ids),
                    chunks=() if prefilled is None else prefilled.chunks,
                    duration_us=elapsed_us(began),
                    kv_bytes=hf.kv_bytes(lease.cache) if lease is not None else 0,
                    source=CacheSource.COMPUTED if prefilled is None else prefilled.source,
                    disk_reason=disk_error or (lease.reuse.disk_reason if lease else ""),
                )
            )
            if lease is not None:
                evictions = self._cache.commit(lease, ids, system=True)
                TurnRecorder(recorder=self._recorder, turn=self.turn).evicted(evictions)
            self.interventions.restart_stream(len(ids))

    def check_turn(self, prompt: Prompt, settings: TurnSettings, plan: RoundPlan) -> None:
        """Raise PromptError or ModelError if a turn with this prompt cannot begin."""
        context = self._context_tokens()
        model, tokenizer = self._model, self._tokenizer
        prepare_turn(model, tokenizer, prompt, settings, plan, context_tokens=context)

    @contextmanager
    def begin_turn(
        self,
        prompt: Prompt,
        settings: TurnSettings,
        plan: RoundPlan,
        *,
        system_ids: Sequence[int],
    ) -> Iterator[RunningTurn]:
        """Record the beginning of a turn, or of a further round of the paused one; yield it to run.

        `system_ids` begin the prompt. Raise PromptError or ModelError before anything is recorded
        if the turn cannot begin.
        """
        with self._exclusive():
            prepared = prepare_turn(
                self._model,
                self._tokenizer,
                prompt,
                settings,
                plan,
                context_tokens=self._context_tokens(),
            )
            if settings.return_cache:
                self._cache.check_copyable(settings.config)
            turn = self.turn + (plan.first_step == 0)
            acting = self.interventions.plan_turn(
                prompt, system_ids, turn=turn, first_step=plan.first_step
            )
            lease = self._lease(prepared, acting.active)
            self.start_run()
            self.interventions.begin_round()
            self.turn, self._paused = turn, False
            events = self._events(plan)
            record_start(events, prepared, prompt)
            self.interventions.begin_turn(acting)
            running = self._running(prepared, lease, events)
            with self._noticing_a_pause(running):
                yield running

    @contextmanager
    def resume_turn(
        self,
        turn: Turn,
        prompt: Prompt,
        settings: TurnSettings,
        plan: RoundPlan,
        *,
        system_ids: Sequence[int],
        forked: Prompt | None = None,
    ) -> Iterator[RunningTurn | StoppedTurn]:
        """Yield a recorded round that has not finished, to run to its end.

        Processors and random stream continue after the tokens that are recorded, so that it gets
        the tokens that it would have had. In a fork, which has shared the round so far, `forked` is
        its prompt with these tokens, and the settings may be others; raise PromptError, before
        anything is recorded, if the reply ends with them.
        """
        with self._exclusive():
            sampled = turn.reply_ids
            prepared = prepare_turn(
                self._model,
                self._tokenizer,
                prompt,
                settings,
                plan,
                sampled,
                context_tokens=self._context_tokens(),
            )
            stop_reason = reason_to_stop(self._model, self._tokenizer, prepared)
            if forked is not None:
                check_continues(turn, stop_reason)
                self.start_run()
            self.turn = turn.number
            self.interventions.begin_round()
            events = self._events(plan)
            if forked is not None:
                record_start(events, prepared, forked)
            self.interventions.resume_turn(turn, prompt, system_ids)
            resumed: RunningTurn | StoppedTurn
            if stop_reason is None or turn.cache is None:
                lease = self._lease(prepared, self.interventions.active)
                resumed = self._running(prepared, lease, events)
            else:
                resumed = StoppedTurn(
                    resources=self._resources,
                    prepared=prepared,
                    events=events,
                    decided=turn.cache,
                    reason=stop_reason,
                )
            with self._noticing_a_pause(resumed):
                yield resumed

    def restore(
        self,
        turns: Sequence[Turn],
        requested: RequestedInterventions,
        read_blob: Callable[[str], bytes] | None,
    ) -> None:
        """Put the engine into the state it had after these turns of another process.

        `read_blob` reads the tensors of interventions; see `InterventionController.restore`.
        """
        acting = turns[-1].active if turns else ActiveInterventions()
        self.interventions.restore(acting, requested, read_blob)
        if turns:
            finished = turns[-1].finished
            self.turn = turns[-1].number
            self._paused = finished is not None and finished.stop_reason == StopReason.TOOL_CALL

    def copy_prefix(self, ids: Sequence[int]) -> CachedPrefix | None:
        """Return a copy of the cache of these ids, or None if it is not in memory."""
        with self._exclusive():
            return self._cache.copy_cached(self.interventions.salt_ids(ids))

    def holds_prefix(self, ids: Sequence[int]) -> bool:
        """Return whether all of these ids are cached in memory."""
        return self._cache.holds(self.interventions.salt_ids(ids))

    def store_prefix(self, ids: Sequence[int]) -> bool:
        """Write the cached beginning of these ids to disk. Return False if nothing is written."""
        with self._exclusive():
            return self._cache.store_cached(ids)

    def clear_cache(self, reason: str) -> None:
        """Free the whole cache and record why. Raise TokentapeError in a tool's thread."""
        self._check_may_clear()
        freed = self._cache.clear()
        if self._recorder is not None and self._recorder.started:
            self._record(CacheCleared(reason=reason, freed_bytes=freed))

    def intervene(self, intervention: Intervention, *, clear_cache: bool) -> None:
        """Request an intervention from the next turn on; see `InterventionController`."""
        clear_cache = check_switch("clear_cache", clear_cache)
        with self._changing_interventions(clear_cache) as turn:
            self.interventions.request(intervention, from_start=clear_cache, turn=turn)

    def withdraw(self, name: str, *, clear_cache: bool) -> None:
        """Withdraw an intervention from the next turn on; see `InterventionController`."""
        clear_cache = check_switch("clear_cache", clear_cache)
        with self._changing_interventions(clear_cache) as turn:
            self.interventions.withdraw(name, from_start=clear_cache, turn=turn)

    @contextmanager
    def _changing_interventions(self, clear_cache: bool) -> Iterator[int | None]:
        """Yield the number of the turn that is paused for a tool, or None. Then clear the cache."""
        with self._exclusive():
            if clear_cache:
                self._check_may_clear()
            yield self.turn if self._paused else None
        if clear_cache:
            self.clear_cache(FOR_INTERVENTION)

    def _check_may_clear(self) -> None:
        if threading.get_ident() != self.interventions.thread:
            raise TokentapeError(
                "a tool cannot clear the cache: clear it in the thread that runs the turns"
            )

    def _context_tokens(self) -> int | None:
        return self._run.settings.context_of(self._model)

    def _events(self, plan: RoundPlan) -> TurnRecorder:
        return TurnRecorder(
            recorder=self._recorder,
            turn=self.turn,
            first_step=plan.first_step,
            continued_tokens=plan.continued_tokens,
            continued_text=plan.continued_text,
        )

    def _running(
        self, prepared: PreparedTurn, lease: CacheLease, events: TurnRecorder
    ) -> RunningTurn:
        return RunningTurn(
            resources=self._resources,
            prepared=prepared,
            lease=lease,
            events=events,
            monitor=self.monitor,
        )

    @contextmanager
    def _noticing_a_pause(self, turn: RunningTurn | StoppedTurn) -> Iterator[None]:
        try:
            yield
        finally:
            self._paused = turn.stop_reason == StopReason.TOOL_CALL

    def _lease(self, prepared: PreparedTurn, acting: ActiveInterventions) -> CacheLease:
        settings = prepared.settings
        return self._cache.acquire(
            salt_ids(prepared.ids, acting.ranges),
            settings.config,
            total_tokens=len(prepared.prompt.ids) + int(settings.config.max_new_tokens or 0),
            use_cache=settings.use_cache,
            given=settings.past_key_values,
        )

    def _write_to_disk(self, lease: CacheLease, ids: Sequence[int]) -> str:
        """Write a prefix to the prefix folder, if there is one. Return why that failed, or ""."""
        try:
            self._cache.store(lease, ids)
        except OSError as error:
            return f"not_stored:{type(error).__name__}"
        return ""

    @contextmanager
    def _exclusive(self) -> Iterator[None]:
        """Refuse a second use of the engine, use the model alone, with the run's numerics."""
        # Tensors made in a caller's inference mode could not be used by later turns.
        with (
            self._use.use(),
            exclusive_use(self._model),
            self.numerics.applied(),
            torch.inference_mode(False),
            torch.no_grad(),
        ):
            yield

    def _record(self, event: Event) -> None:
        if self._recorder is not None:
            self._recorder.record(event)
