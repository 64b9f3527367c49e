"""Generate and record a run again: the same inputs, settings and seeds with another model."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from tokentape.generation import LoadedModel, ManualGenerator, fingerprints
from tokentape.generation.engine.engine import FOR_INTERVENTION
from tokentape.generation.engine.run_description import RunDescription
from tokentape.generation.engine.turn import RoundPlan
from tokentape.generation.hf.control_tokens import encode, escape_control_tokens
from tokentape.generation.history.conversation_format import ConversationFormat
from tokentape.generation.history.format_probe import choose_format
from tokentape.generation.history.messages import AnsweredCall
from tokentape.generation.history.restored_conversation import answered_calls, recorded_prompt
from tokentape.generation.interventions import can_rebuild, rebuild_intervention, tensor_from_bytes
from tokentape.generation.investigation.recorded_settings import recorded_settings
from tokentape.generation.investigation.resume_point import (
    ResumePoint,
    recorded_format,
)
from tokentape.generation.run_settings import HISTORIES, NO_HISTORY, RunSettings
from tokentape.generation.tools.interface import ToolInterface
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
from tokentape.recorder.events.turn import REDACTED
from tokentape.recorder.projections import Turn, join_continued
from tokentape.replay.recorded.loaded_run import LoadedRun, check_has_tokens, load_run
from tokentape.replay.results.errors import NothingToReplayError, ReplayError

ReadBlob = Callable[[str], bytes]

_INPUTS = (
    SystemPromptCached,
    CacheCleared,
    InterventionRequested,
    InterventionWithdrawn,
    TurnStarted,
    ToolCalled,
    ToolReturned,
)
_INTERRUPTED = {
    "switched_branch": "continues another branch of the conversation",
    "after_unfinished_turn": "continues after a turn that was cut off",
}


def rerecord(
    recording: Recording | LoadedRun,
    lm: LoadedModel,
    store: EventLog,
    *,
    parent: Recording | None = None,
) -> str:
    """Generate a run again with a model, record that in `store`, and return the id of the new run.

    The inputs are the recorded ones: system prompt, messages, tool results, settings, seeds, the
    kind of history, and prompts given as ids. Replies and fingerprints are new; a turn that was cut
    off at the end is generated whole. `parent` is the new recording of a fork's parent in the same
    store; without it, the new run is not a fork and contains the shared turns, too.

    Raise ReplayError, before anything is recorded, if the events do not suffice. Raise ModelError
    or PromptError if the model rejects a turn; the new run has then failed.
    """
    run = load_run(recording)
    turns = {_round_key(turn.started): turn for turn in run.turns}
    forked = run.forked if parent is not None else None
    envelopes = run.own_envelopes if forked is not None else run.envelopes
    inputs = [each.event for each in envelopes if _is_input(each.event)]
    _check_rerecordable(run, inputs)
    read_blob = _blob_reader(run, inputs)
    calls = answered_calls(each.event for each in run.envelopes)
    recorder = Recorder(store)
    generator = _generator(run.started, lm, recorder)
    with recorder:
        generator.start_run()
        if forked is not None and parent is not None:
            point = ResumePoint.of(parent, before_turn=forked.at_turn)
            point.restore(generator)
            recorder.record(point.fork_event(forked.at_turn, forked.changes))
        for event in inputs:
            if isinstance(event, SystemPromptCached):
                _begin_conversation(event, generator)
            elif isinstance(event, InterventionRequested):
                _intervene(event, generator, read_blob)
            elif isinstance(event, InterventionWithdrawn):
                generator.withdraw(event.name, clear_cache=event.clear_cache)
            elif isinstance(event, CacheCleared):
                generator.clear_cache(event.reason)
            elif isinstance(event, TurnStarted):
                _generate_round(turns[_round_key(event)], run.started, calls, lm, generator)
            elif isinstance(event, ToolReturned):
                _record_result(event, lm, recorder, read_blob)
            else:
                recorder.record(event)
    return recorder.run_id


def _begin_conversation(system: SystemPromptCached, generator: ManualGenerator) -> None:
    if system.content:
        generator.cache_system_prompt(system.content)
    else:
        generator.begin_without_system_prompt()


def _is_input(event: Event) -> bool:
    """Return whether the event is an input, not an effect of the model or of another input."""
    is_effect = isinstance(event, CacheCleared) and event.reason == FOR_INTERVENTION
    return isinstance(event, _INPUTS) and not is_effect


def _round_key(started: TurnStarted) -> tuple[int, int]:
    return started.turn, started.first_step


def _blob_reader(run: LoadedRun, inputs: Sequence[Event]) -> ReadBlob:
    """Return the function that reads blobs. Raise ReplayError if it is needed and missing."""
    if run.recording.read_blob is not None:
        return run.recording.read_blob
    for event in inputs:
        if isinstance(event, ToolReturned):
            raise ReplayError(f"run {run.run_id} has tool results whose blobs cannot be read")
        if isinstance(event, InterventionRequested) and event.tensor_sha256:
            raise ReplayError(f"the tensor of intervention {event.name!r} cannot be read")
    no_blobs: dict[str, bytes] = {}
    return no_blobs.__getitem__


def _intervene(
    event: InterventionRequested, generator: ManualGenerator, read_blob: ReadBlob
) -> None:
    sha256 = event.tensor_sha256
    tensor = tensor_from_bytes(read_blob(sha256), sha256) if sha256 else None
    generator.intervene(rebuild_intervention(event, tensor), clear_cache=event.clear_cache)


def _check_rerecordable(run: LoadedRun, inputs: Sequence[Event]) -> None:
    """Raise ReplayError if the events do not suffice to generate the run again."""
    check_has_tokens(run)
    if not run.turns:
        raise NothingToReplayError(
            f"run {run.run_id} has no turn to record again{run.unfinished_note}"
        )
    if len(list(join_continued(run.turns))) != len(run.turns):
        raise ReplayError(
            "a turn continues the reply of another run from a token on, which another model does "
            "not give: it cannot be recorded again"
        )
    for turn in run.turns:
        started = turn.started
        if REDACTED in started.unreplayable:
            raise NothingToReplayError(
                f"run {run.run_id} was redacted: what the model was told was not recorded"
            )
        unknown = [name for name in started.unreplayable if name != "max_time"]
        if unknown:
            raise ReplayError(
                f"turn {turn.number} was generated with {', '.join(unknown)}, which no event "
                "describes: it cannot be recorded again"
            )
        if started.history_reason in _INTERRUPTED:
            raise ReplayError(
                f"turn {turn.number} {_INTERRUPTED[started.history_reason]}: it cannot be "
                "recorded again"
            )
    for event in inputs:
        if isinstance(event, InterventionRequested) and not can_rebuild(event):
            raise ReplayError(
                f"a predicate decides where intervention {event.name!r} acts, and no event holds "
                "it: it cannot be recorded again"
            )


def _generator(started: RunStarted, lm: LoadedModel, recorder: Recorder) -> ManualGenerator:
    run = RunDescription(
        name=started.name,
        model=lm.name,
        seed=started.seed,
        settings=_settings(started),
        tools=started.tools,
        tool_sources=started.tool_sources,
        conversation_format=_conversation_format(started, lm),
        warnings=started.warnings,
    )
    return ManualGenerator(lm.model, lm.tokenizer, recorder, identity=lm.identity, run=run)


def _conversation_format(started: RunStarted, lm: LoadedModel) -> ConversationFormat:
    """Return the recorded format, or that of the model if it has another chat template."""
    if fingerprints.template_sha256(lm.tokenizer) == started.template_sha256:
        return recorded_format(started)
    return choose_format(
        lm.tokenizer,
        template_settings=_settings(started).template_settings,
        tools=ToolInterface.from_names(started.tools).get_available_tools(),
    )


def _settings(started: RunStarted) -> RunSettings:
    settings = RunSettings.from_record(started.settings)
    if settings.history == NO_HISTORY:
        # The prompts of `model.generate` calls are ids: any history leaves them as they are.
        return replace(settings, history=HISTORIES[0])
    return settings


def _generate_round(
    turn: Turn,
    started: RunStarted,
    calls: Mapping[str, AnsweredCall],
    lm: LoadedModel,
    generator: ManualGenerator,
) -> None:
    prompt = recorded_prompt(
        generator.conversation,
        turn,
        _settings(started),
        calls=calls,
        context_tokens=_settings(started).context_of(lm.model),
    )
    plan = RoundPlan(first_step=turn.first_step, forced_ids=turn.started.forced_ids)
    generator.run_turn(prompt, recorded_settings(turn), plan)


def _record_result(
    event: ToolReturned, lm: LoadedModel, recorder: Recorder, read_blob: ReadBlob
) -> None:
    """Record the recorded result, with its length in tokens of today's tokenizer."""
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
