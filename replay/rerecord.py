"""Record a run anew: the same messages, tool results, settings and seeds, with today's model."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from tokentape.generation import LoadedModel, ManualGenerator
from tokentape.generation.checks import context_tokens
from tokentape.generation.engine.engine import FOR_INTERVENTION
from tokentape.generation.engine.run_description import RunDescription
from tokentape.generation.engine.turn import RoundPlan
from tokentape.generation.hf.control_tokens import encode, escape_control_tokens
from tokentape.generation.history.restored_conversation import recorded_prompt
from tokentape.generation.interventions import can_rebuild, rebuild_intervention, tensor_from_bytes
from tokentape.generation.investigation.resume_point import ResumePoint, recorded_settings
from tokentape.generation.run_settings import HISTORIES, NO_HISTORY, RunSettings
from tokentape.recorder import EventLog, Recorder, Recording
from tokentape.recorder.events import (
    CacheCleared,
    Event,
    InterventionRequested,
    InterventionWithdrawn,
    RunStarted,
    SystemPromptCached,
    ToolCalled,
    ToolReturned,
    TurnStarted,
)
from tokentape.recorder.projections import Turn
from tokentape.recorder.redaction import REDACTED
from tokentape.replay.errors import NothingToReplayError, ReplayError

ReadBlob = Callable[[str], bytes]

_GIVEN = (
    SystemPromptCached,
    CacheCleared,
    InterventionRequested,
    InterventionWithdrawn,
    TurnStarted,
    ToolCalled,
    ToolReturned,
)
_BROKEN_OFF = {
    "switched_branch": "goes on with another branch of the conversation",
    "after_unfinished_turn": "goes on behind a turn that was cut off",
}


def rerecord(
    recording: Recording, lm: LoadedModel, store: EventLog, *, parent: Recording | None = None
) -> str:
    """Have a model say it all again, and record that in `store`. Returns the id of the new run.

    What was given stays: system prompt, messages, results of tools, settings, seeds, the kind of
    history, and prompts of ids. Replies and fingerprints are today's; a turn that was cut off at
    the end is taken whole. With its `parent` as it was recorded anew in the same store, a fork is
    one of that; without, it is a run of its own, which takes the turns that it shared as well.
    Raises ReplayError, before anything is recorded, for what events cannot ask for again;
    ModelError and PromptError where today's model refuses a turn: the new run has failed then.
    """
    started, turns = recording.started(), {_place(turn.started): turn for turn in recording.turns()}
    forked = recording.forked() if parent is not None else None
    events = recording.own_events() if forked is not None else recording.events()
    given = [each.event for each in events if _is_given(each.event)]
    _refuse(recording, turns, given)
    read_blob = _payloads(recording, given)
    recorder = Recorder(store)
    generator = _generator(started, lm, recorder)
    with recorder:
        generator.start_run()
        if forked is not None and parent is not None:
            point = ResumePoint.of(parent, before_turn=forked.at_turn)
            point.restore(generator)
            recorder.record(point.fork_event(forked.at_turn, forked.changes))
        for event in given:
            if isinstance(event, SystemPromptCached):
                generator.cache_system_prompt(event.content)
            elif isinstance(event, InterventionRequested):
                _intervene(event, generator, read_blob)
            elif isinstance(event, InterventionWithdrawn):
                generator.withdraw(event.name, clear_cache=event.clear_cache)
            elif isinstance(event, CacheCleared):
                generator.clear_cache(event.reason)
            elif isinstance(event, TurnStarted):
                _take(turns[_place(event)], started, lm, generator)
            elif isinstance(event, ToolReturned):
                _return_again(event, lm, recorder, read_blob)
            else:
                recorder.record(event)
    return recorder.run_id


def _is_given(event: Event) -> bool:
    """Whether it did not come of the model, nor of another that was given."""
    cleared_by_another = isinstance(event, CacheCleared) and event.reason == FOR_INTERVENTION
    return isinstance(event, _GIVEN) and not cleared_by_another


def _place(started: TurnStarted) -> tuple[int, int]:
    return started.turn, started.first_step


def _payloads(recording: Recording, given: Sequence[Event]) -> ReadBlob:
    """Where to read what events name. Raises ReplayError where that is needed and not at hand."""
    if recording.read_blob is not None:
        return recording.read_blob
    for event in given:
        if isinstance(event, ToolReturned):
            raise ReplayError(f"run {recording.run_id} has results of tools that are not at hand")
        if isinstance(event, InterventionRequested) and event.tensor_sha256:
            raise ReplayError(f"the tensor of intervention {event.name!r} is not at hand")
    nothing: dict[str, bytes] = {}
    return nothing.__getitem__


def _intervene(
    event: InterventionRequested, generator: ManualGenerator, read_blob: ReadBlob
) -> None:
    sha256 = event.tensor_sha256
    tensor = tensor_from_bytes(read_blob(sha256), sha256) if sha256 else None
    generator.intervene(rebuild_intervention(event, tensor), clear_cache=event.clear_cache)


def _refuse(
    recording: Recording, turns: dict[tuple[int, int], Turn], given: Sequence[Event]
) -> None:
    if not turns:
        raise NothingToReplayError(f"run {recording.run_id} has no turn to record anew")
    for turn in turns.values():
        started = turn.started
        if REDACTED in started.unreplayable:
            raise NothingToReplayError(
                f"run {recording.run_id} was redacted: what was said to the model was not kept"
            )
        own = [name for name in started.unreplayable if name != "max_time"]
        if own:
            raise ReplayError(
                f"turn {turn.number} was generated with {', '.join(own)}, which no event rebuilds: "
                "it cannot be recorded anew"
            )
        if started.history_reason in _BROKEN_OFF:
            raise ReplayError(
                f"turn {turn.number} {_BROKEN_OFF[started.history_reason]}: it cannot be recorded "
                "anew"
            )
    for event in given:
        if isinstance(event, InterventionRequested) and not can_rebuild(event):
            raise ReplayError(
                f"a predicate decides where intervention {event.name!r} acts, and no event holds "
                "that: it cannot be recorded anew"
            )


def _generator(started: RunStarted, lm: LoadedModel, recorder: Recorder) -> ManualGenerator:
    run = RunDescription(
        name=started.name,
        model=lm.name,
        seed=started.seed,
        settings=_settings(started),
        tools=started.tools,
    )
    return ManualGenerator(lm.model, lm.tokenizer, recorder, identity=lm.identity, run=run)


def _settings(started: RunStarted) -> RunSettings:
    settings = RunSettings.from_record(started.settings)
    if settings.history == NO_HISTORY:
        # The prompts of `model.generate` calls are ids: any history leaves them as they are.
        return replace(settings, history=HISTORIES[0])
    return settings


def _take(turn: Turn, started: RunStarted, lm: LoadedModel, generator: ManualGenerator) -> None:
    prompt = recorded_prompt(
        generator.conversation, turn, _settings(started), context_tokens=context_tokens(lm.model)
    )
    plan = RoundPlan(first_step=turn.first_step)
    generator.take_turn(prompt, recorded_settings(turn), plan)


def _return_again(
    event: ToolReturned, lm: LoadedModel, recorder: Recorder, read_blob: ReadBlob
) -> None:
    """The result as it was, counted in today's tokens."""
    payload = read_blob(event.payload_sha256)
    recorder.put_blob(event.payload_sha256, payload)
    tokenizer = lm.tokenizer
    recorder.record(
        replace(
            event,
            content_tokens=len(encode(tokenizer, escape_control_tokens(tokenizer, event.content))),
            payload_tokens=len(encode(tokenizer, payload.decode())),
        )
    )
