"""Forwards of a model along the schedule of a run, with the recorded tokens in their places."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import GenerationConfig, LogitsProcessorList

from tokentape.generation import LoadedModel, hf
from tokentape.generation.cache import NO_TOKEN, CacheLease, PrefixCache, salt_ids
from tokentape.generation.engine.prefill import ids_tensor, prefill
from tokentape.generation.engine.sampling import draw, generator_sha256, measure, skip_draws
from tokentape.generation.errors import ModelError
from tokentape.generation.fingerprints.adapter_state import (
    NO_ADAPTERS,
    active_adapters,
    adapters_as_recorded,
)
from tokentape.generation.hf.attention_kernel import using_attention
from tokentape.generation.models.memory_check import enough_memory, is_out_of_memory
from tokentape.generation.numerics.as_recorded import numerics_as_recorded
from tokentape.generation.numerics.threads import torch_threads
from tokentape.generation.run_settings import RunSettings
from tokentape.recorder import RecordingError
from tokentape.recorder.events import (
    CacheCleared,
    CacheSource,
    SystemPromptCached,
)
from tokentape.recorder.projections import Turn
from tokentape.replay.checking.interventions import Interventions
from tokentape.replay.checking.machine import THREADS_MAX, machine_differences
from tokentape.replay.checking.turns import prepare_round, stop_of_settings
from tokentape.replay.recorded.loaded_run import LoadedRun
from tokentape.replay.results.errors import ReplayError
from tokentape.replay.results.report import Floor
from tokentape.replay.retracing.repeated_forwards import RepeatedForwards
from tokentape.replay.retracing.round_comparison import RetracedRound, RoundComparison
from tokentape.replay.retracing.schedule import ProcessBegan, RoundForwards, Step


@dataclass(frozen=True, slots=True, kw_only=True)
class Unrepeatable:
    """States that the recorded process did not compute, so that their forwards are unknown.

    They were restored from disk or given by the caller. They are computed in a prefill of their
    own instead, which may give other bits.
    """

    turn: int
    """The turn that reused them."""
    tokens: int
    source: CacheSource

    @property
    def origin(self) -> str:
        """Where the states came from, for people."""
        return {
            CacheSource.DISK: "the prefix folder",
            CacheSource.GIVEN: "the caller's past_key_values",
        }.get(self.source, "a cache that this version evicts sooner")


class Retracer:
    """Runs the forwards of a run again, process by process, and compares the rows of some turns."""

    def __init__(
        self,
        run: LoadedRun,
        lm: LoadedModel,
        interventions: Interventions,
        *,
        same_machine_floor: Floor,
        other_machine_floor: Floor,
        processors: Callable[[Turn], LogitsProcessorList] | None,
    ) -> None:
        """Rounds are checked with the floor of the machine that recorded them.

        `processors` creates the user's own processors of a turn; see `CheckOptions`.
        """
        self.unrepeatable: list[Unrepeatable] = []
        self.machine_differences: set[str] = set()
        """What differs from the machines that recorded, with everything set that can be."""
        self._lm = lm
        self._model: Any = lm.model
        self._interventions = interventions
        self._same_machine_floor = same_machine_floor
        self._other_machine_floor = other_machine_floor
        self._processors = processors
        self._settings = RunSettings.from_record(run.started.settings)
        self._attention_kernel = run.started.attention_kernel
        self._cache = self._empty_cache()
        self._same_machine = True
        self._open: _OpenRound | None = None

    def rounds(self, steps: Sequence[Step], compared: Sequence[Turn]) -> Iterator[RetracedRound]:
        """Follow the steps and yield the `compared` rounds, each when it is done.

        Raise RecordingError for a schedule that contradicts itself, and ModelError for logits that
        are not finite.
        """
        wanted = {id(turn) for turn in compared}
        last = {id(step.turn): step for step in steps if isinstance(step, RoundForwards)}
        with ExitStack() as machine:
            for index, step in enumerate(steps):
                if isinstance(step, ProcessBegan):
                    machine.close()
                    self._begin_process(step, machine)
                elif isinstance(step, CacheCleared):
                    self._cache.clear()
                elif isinstance(step, SystemPromptCached):
                    # No event says under which key: its states serve only turns with that key.
                    following = (each for each in steps[index:] if isinstance(each, RoundForwards))
                    with self._keyed(next(following, None)):
                        self._process_system_prompt(step)
                else:
                    with self._keyed(step), _refusals(step.turn):
                        self._follow(step, compare=id(step.turn) in wanted)
                    if id(step.turn) in wanted and step is last[id(step.turn)]:
                        yield self._finish_round(step.turn)

    def _begin_process(self, step: ProcessBegan, machine: ExitStack) -> None:
        self._cache = self._empty_cache()
        threads = step.event.threads
        machine.enter_context(torch_threads(threads if threads <= THREADS_MAX else None))
        machine.enter_context(numerics_as_recorded(step.event.environment))
        differences = machine_differences(step.event, self._lm)
        self.machine_differences.update(differences)
        self._same_machine = not differences

    @contextmanager
    def _keyed(self, step: RoundForwards | None) -> Iterator[None]:
        """Within this context, let the model have the adapters and the kernel of a cache key."""
        key = step.decided.key if step is not None else {}
        kernel = str(key.get("attention_kernel", self._attention_kernel))
        # Recordings of 0.1.0 have no keys.
        adapters = str(key.get("adapters", NO_ADAPTERS)) if key else active_adapters(self._model)
        with using_attention(self._model, kernel), adapters_as_recorded(self._model, adapters):
            yield

    def _empty_cache(self) -> PrefixCache:
        identity, budget_bytes = self._lm.identity, self._settings.cache_bytes
        return PrefixCache(self._model, identity, budget_bytes=budget_bytes)

    def _process_system_prompt(self, step: SystemPromptCached) -> None:
        """Prefill a system prompt alone, as the recorded process did."""
        ids = step.ids
        if not ids or (not step.chunks and step.source == CacheSource.COMPUTED):
            return
        config = hf.prefill_config(self._model)
        reused = len(ids) - sum(step.chunks)
        if reused < 0 or min(step.chunks, default=1) < 1:
            raise RecordingError(
                f"a system prompt of {len(ids)} tokens cannot have been forwarded in chunks of "
                f"{', '.join(map(str, step.chunks[:5]))}"
            )
        with self._forwarding():
            lease = self._lease(ids, reused, config, total_tokens=len(ids) + 1)
            self._complete(lease, ids[:reused], 0, step.source)
            if step.chunks:
                tensor = self._tensor(ids)
                decoder = hf.Decoder(self._model, config, tensor, lease.cache, held=reused)
                decoder.prefill_chunks(step.chunks, one_by_one=_is_one_by_one(lease))
            self._cache.commit(lease, ids, system=True)

    def _follow(self, step: RoundForwards, *, compare: bool) -> None:
        """Forward a prefill and the tokens after it, and cache what the process cached."""
        turn, ids, reused = step.turn, step.ids, step.decided.reused_tokens
        config = hf.recorded_config(turn.started.sampling)
        total = turn.own_prompt_tokens + int(config.max_new_tokens or 0)
        ranges = self._interventions.of_turn(turn)
        salted = salt_ids((*turn.prompt_ids, *turn.reply_ids), ranges)
        with self._forwarding():
            lease = self._lease(salted[: len(ids)], reused, config, total_tokens=total)
            self._complete(lease, ids[:reused], turn.number, step.decided.source)
            decoder = hf.Decoder(self._model, config, self._tensor(ids), lease.cache, held=reused)
            with self._interventions.applied(self._model, ranges, start=reused):
                logits = decoder.prefill_chunks(step.chunks, one_by_one=_is_one_by_one(lease))
                if decoder.holds(lease.cache, len(ids)):
                    self._cache.commit_prompt(lease, salted[: len(ids)])
                with hf.decoding(self._model):
                    self._decode(step, decoder, logits, compare=compare)
        if step.cleared:
            self._cache.clear()
        held = len(turn.prompt_ids) + step.end - 1
        if step.commits and decoder.holds(lease.cache, held):
            self._cache.commit(lease, salted[:held])

    def _decode(
        self, step: RoundForwards, decoder: hf.Decoder, logits: torch.Tensor, *, compare: bool
    ) -> None:
        """Forward the recorded tokens one by one, and compare the rows that chose them."""
        turn = step.turn
        ids = self._tensor((*turn.prompt_ids, *turn.reply_ids))
        opened = self._open_round(turn) if compare else None
        following, forwards = step.forwarded_with(), RepeatedForwards(self._model)
        for index in range(step.start, step.end):
            seen = len(turn.prompt_ids) + index
            if opened is not None:
                opened.add(logits, ids[:, :seen], ids[:, : seen + 1])
            if index + 1 < step.end:
                logits = forwards.forward(decoder, ids[:, : seen + 1], next(following))

    def _open_round(self, turn: Turn) -> "_OpenRound":
        if self._open is None or self._open.turn is not turn:
            self._open = self._start_round(turn)
        self._open.comparison.same_machine &= self._same_machine
        return self._open

    def _lease(
        self, ids: Sequence[int], reused: int, config: GenerationConfig, *, total_tokens: int
    ) -> CacheLease:
        """Return a cache of the first `reused` ids, which may be salted, or of fewer."""
        return self._cache.acquire(
            (*ids[:reused], NO_TOKEN), config, total_tokens=total_tokens, use_cache=reused > 0
        )

    def _complete(
        self, lease: CacheLease, ids: Sequence[int], turn: int, source: CacheSource
    ) -> None:
        """Compute those of `ids` that the cache of the lease lacks."""
        missing = len(ids) - lease.reuse.reused_tokens
        if not missing:
            return
        self.unrepeatable.append(Unrepeatable(turn=turn, tokens=missing, source=source))
        config, chunk = hf.prefill_config(self._model), self._settings.prefill_chunk_tokens
        prefill(self._model, self._tensor(ids), lease, config, chunk_tokens=chunk)

    def _start_round(self, turn: Turn) -> "_OpenRound":
        def processors() -> LogitsProcessorList | None:
            # One that changes nothing would still change how a log-probability is rounded.
            own = self._processors if turn.started.unreplayable else None
            return None if own is None else own(turn)

        comparison = RoundComparison(
            turn=turn,
            lm=self._lm,
            floor=self._same_machine_floor if self._same_machine else self._other_machine_floor,
            same_machine=self._same_machine,
            user_processors=processors,
        )
        config = hf.recorded_config(turn.started.sampling)
        prompt = self._tensor(turn.prompt_ids)
        prepared = prepare_round(turn, self._lm, config, prompt, processors=processors())
        generator: torch.Generator | None = None
        if config.do_sample:
            seed = turn.started.seed or 0
            generator = torch.Generator(device=self._model.device).manual_seed(seed)
            vocabulary = self._model.get_input_embeddings().num_embeddings
            skip_draws(generator, vocabulary, turn.continued_tokens)
        return _OpenRound(
            turn=turn,
            comparison=comparison,
            preparation=prepared,
            generator=generator,
        )

    def _finish_round(self, turn: Turn) -> RetracedRound:
        opened, self._open = self._open, None
        assert opened is not None
        generator_matches: bool | None = None
        if opened.generator is not None and turn.finished is not None:
            end_state = generator_sha256(opened.generator)
            generator_matches = end_state == turn.finished.generator_sha256
        return opened.comparison.finish(
            generator_matches=generator_matches, stop_matches=opened.stop_matches
        )

    def _tensor(self, ids: Sequence[int]) -> torch.Tensor:
        return ids_tensor(ids, self._model.device)

    @contextmanager
    def _forwarding(self) -> Iterator[None]:
        # As the engine does: tensors of a caller's inference mode could not be used again.
        with torch.inference_mode(False), torch.no_grad():
            yield


@dataclass(slots=True, kw_only=True)
class _OpenRound:
    """A round under way: its random stream and processors, and the rows compared so far."""

    turn: Turn
    comparison: RoundComparison
    preparation: hf.Preparation
    generator: torch.Generator | None
    stop_matches: bool | None = None
    _top_logprobs: int = field(init=False)

    def __post_init__(self) -> None:
        self._top_logprobs = len(self.turn.tokens[0].top_ids) if self.turn.tokens else 0

    def add(self, logits: torch.Tensor, seen: torch.Tensor, after: torch.Tensor) -> None:
        """Sample from a row and compare it with the recorded token.

        `seen` are the ids before the token and `after` those with it, int64 of shape (1, tokens).
        Raise RecordingError if the settings of the turn cannot be applied.
        """
        index = seen.shape[1] - len(self.turn.prompt_ids)
        try:
            scores = hf.process(self.preparation.processors, seen, logits)
        except (IndexError, TypeError, ValueError) as error:
            raise RecordingError(
                f"the settings of turn {self.turn.number} cannot be applied: {error}"
            ) from None
        token = after[0, -1:]
        if index < self.turn.forced_tokens:
            drawn = draw(logits, scores, generator=self.generator, forced=token)
        else:
            drawn = draw(logits, scores, generator=self.generator, recorded=token)
        stops = hf.stop_flags(self.preparation.criteria, after)
        measures = measure(logits, drawn, stops, top_logprobs=self._top_logprobs)
        if math.isnan(measures.logprob):
            raise ModelError(
                f"the model's logits are not finite in turn {self.turn.number}, from token {index} "
                "on: its weights are broken"
            )
        self.comparison.add(logits, measures, int(drawn.picked))
        self._check_stop(hf.stop_reason_of(self.preparation.criteria, measures.stops), index)

    def _check_stop(self, reason: str | None, index: int) -> None:
        """Note whether the settings stop the round at its last token, and not before."""
        if index + 1 < len(self.turn.tokens):
            if reason is not None:
                self.stop_matches = False
        elif self.turn.finished is not None and self.stop_matches is None:
            self.stop_matches = reason == stop_of_settings(self.turn.finished)


@contextmanager
def _refusals(turn: Turn) -> Iterator[None]:
    """Raise one line for what torch refuses: too little memory, or a flag of the recording."""
    with enough_memory(f"retrace turn {turn.number}"):
        try:
            yield
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise
            first_line = str(error).strip().partition("\n")[0]
            raise ReplayError(
                f"turn {turn.number} cannot be forwarded as it was recorded: {first_line}"
            ) from None


def _is_one_by_one(lease: CacheLease) -> bool:
    return lease.policy.continues == "tokens"
