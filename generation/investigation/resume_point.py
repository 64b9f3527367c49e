"""A point of a recorded run from which another process resumes or forks it."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from tokentape.generation import fingerprints
from tokentape.generation.checks import check_seed
from tokentape.generation.engine.manual_generator import ManualGenerator
from tokentape.generation.engine.turn import TurnResult, TurnSettings
from tokentape.generation.errors import ModelError, PromptError
from tokentape.generation.fingerprints.adapter_state import NO_ADAPTERS, active_adapters
from tokentape.generation.history.chosen_tokens import chosen_token, complete_text
from tokentape.generation.history.conversation_format import ConversationFormat, ResultStyle
from tokentape.generation.history.prompt import Prompt
from tokentape.generation.history.recorded_prompts import prompt_of
from tokentape.generation.history.restored_conversation import (
    answered_calls,
    restore_conversation,
)
from tokentape.generation.investigation.recorded_settings import (
    changed_settings,
    check_has_settings,
)
from tokentape.generation.investigation.token_fork import TokenFork, events_before_token
from tokentape.generation.investigation.unshared_interventions import unshared_interventions
from tokentape.generation.models.loading import LoadedModel
from tokentape.generation.numerics.attention import cuda_device
from tokentape.generation.run_settings import NO_HISTORY, RunSettings
from tokentape.generation.tools.interface import ToolInterface
from tokentape.generation.tools.sources import missing_tools, warn_of_source_changes
from tokentape.recorder import Envelope, Recording, RecordingError, process
from tokentape.recorder.derived_seeds import round_seed, turn_seed
from tokentape.recorder.escapes import visible
from tokentape.recorder.events import (
    MessageAdded,
    RunForked,
    RunResumed,
    RunStarted,
    SystemPromptCached,
    ToolCalled,
    ToolReturned,
    TurnFinished,
    TurnStarted,
)
from tokentape.recorder.plain_values import plain_value
from tokentape.recorder.projections import (
    RequestedInterventions,
    Turn,
    iterate_turns,
    join_continued,
)
from tokentape.recorder.seals import SealChain


@dataclass(frozen=True, slots=True, kw_only=True)
class ResumePoint:
    """A recorded run up to some event, from which to resume or fork it."""

    recording: Recording
    started: RunStarted
    envelopes: Sequence[Envelope]
    """The events up to this point, those that a fork shares with its parents included."""
    turns: Sequence[Turn]
    """The rounds of all turns up to this point, those whole that forks at a token continued."""
    last_record: Turn | None
    """The last round without the tokens that it continues, if there is one."""
    calls_made: int
    """Tool calls whose results a prompt has shown."""
    unread_results: Mapping[str, tuple[ToolCalled, ToolReturned]]
    """Calls and results, by call id, that no prompt has shown yet."""
    unshared_interventions: Sequence[str]
    """The names of those that the run requested or withdrew after this point, before its turn."""

    @classmethod
    def of(
        cls,
        recording: Recording,
        *,
        before_turn: int | None = None,
        before_token: int | None = None,
    ) -> "ResumePoint":
        """Return the end of the run, or the point before a turn of it, or before a token of one.

        Raise RecordingError for a damaged run and for a conversation that was imported without
        tokens, and PromptError if the run never came to that point.
        """
        imported = recording.imported()
        if imported is not None:
            raise RecordingError(f"run {recording.run_id} {imported.without_tokens}")
        envelopes = list(recording.events())
        unshared = unshared_interventions(envelopes, before_turn) if before_turn else ()
        if before_turn is not None and before_token is not None:
            envelopes = events_before_token(envelopes, before_turn, before_token)
        elif before_turn is not None:
            envelopes = _before(envelopes, before_turn)
        calls_made, unread = _tool_calls(envelopes)
        rounds = list(iterate_turns(envelopes))
        return cls(
            recording=recording,
            started=recording.started(),
            envelopes=envelopes,
            turns=list(join_continued(rounds)),
            last_record=rounds[-1] if rounds else None,
            calls_made=calls_made,
            unread_results=unread,
            unshared_interventions=unshared,
        )

    @property
    def settings(self) -> RunSettings:
        """The settings that the run was started with."""
        return RunSettings.from_record(self.started.settings)

    @property
    def conversation_format(self) -> ConversationFormat:
        """The format in which the chat template is given the messages of the run."""
        return recorded_format(self.started)

    @property
    def system(self) -> SystemPromptCached | None:
        """The newest system prompt, if there is one."""
        found = (each.event for each in reversed(self.envelopes))
        return next((each for each in found if isinstance(each, SystemPromptCached)), None)

    @property
    def last_turn(self) -> int:
        """The number of the last turn that began; zero before the first."""
        return self.turns[-1].number if self.turns else 0

    @property
    def open_turn(self) -> Turn | None:
        """The last round, if it was cut off and its events suffice to finish it."""
        if not self.turns or self.turns[-1].finished is not None:
            return None
        return None if self.turns[-1].started.unreplayable else self.turns[-1]

    def restore(self, generator: ManualGenerator, *, to_open_turn: bool = False) -> Prompt | None:
        """Put a generator into the state of this point.

        With `to_open_turn` that is the state before the last round; return its prompt. Raise
        RecordingError for another template that appends other texts to an `exact` history, and
        ModelError for interventions that no event can rebuild.
        """
        conversation = generator.conversation.fresh()
        prompt = restore_conversation(
            conversation,
            self.settings,
            self.system,
            self.turns,
            calls=answered_calls(each.event for each in self.envelopes),
            context_tokens=self.started.context_tokens,
            last_is_open=to_open_turn,
            same_template=self._is_template_of(generator.tokenizer),
        )
        requested = RequestedInterventions.of(self.envelopes)
        generator.restore(self.turns, conversation, requested, self.recording.read_blob)
        return prompt

    def fork_event(
        self,
        at_turn: int,
        changes: Mapping[str, Any],
        *,
        at_token: int | None = None,
        other_model: Sequence[str] = (),
    ) -> RunForked:
        """Return the event with which a fork at this point begins.

        The parent is the run that has the last of the events. `changes` are recorded as they are.
        """
        last = self.envelopes[-1]
        recording = self.recording
        if last.run_id != recording.run_id:
            recording = next(each for each in recording.lineage() if each.run_id == last.run_id)
        chain = SealChain(recording.run_id)
        for record in recording.records():
            if record.seq > last.seq:
                break
            chain.add(record)
        return RunForked(
            parent_run_id=recording.run_id,
            parent_seq=last.seq,
            parent_hash=chain.tail_hash,
            at_turn=at_turn,
            changes=dict(changes),
            at_token=at_token,
            other_model=tuple(other_model),
        )

    def fork_at_token(
        self, lm: LoadedModel, token: str | int | None, changes: Mapping[str, Any], run_seed: int
    ) -> TokenFork:
        """Return how a fork continues the round that is open here, with a chosen token if given.

        `changes` of the settings hold from there on. Raise PromptError for a text that is not one
        token, and ModelError for a change that is no setting.
        """
        tokenizer = lm.tokenizer
        vocabulary = lm.model.get_input_embeddings().num_embeddings
        whole, last = self.turns[-1], self.last_record
        assert last is not None
        text = last.prompt_text + complete_text(tokenizer, last.prompt_ids, last.reply_ids)
        chosen = () if token is None else (chosen_token(tokenizer, text, token, vocabulary),)
        settings = self._settings_in_reply(changes, run_seed)
        return TokenFork.of(tokenizer, whole, last, settings=settings, forced_ids=chosen)

    def _settings_in_reply(self, changes: Mapping[str, Any], run_seed: int) -> TurnSettings:
        """Return the settings of the open round with changes.

        `max_new_tokens` counts the tokens of the whole turn.
        """
        turn, changed = self.turns[-1], dict(plain_value(changes))
        check_has_settings(changed)
        check_seed(changed.get("seed"))
        step = turn.first_step + len(turn.tokens)
        if "max_new_tokens" in changed:
            if changed["max_new_tokens"] <= step:
                raise PromptError(
                    f"max_new_tokens={changed['max_new_tokens']} counts the whole reply, and "
                    f"{step} tokens of it are shared: raise it"
                )
            changed["max_new_tokens"] -= turn.first_step
        derived = round_seed(turn_seed(run_seed, turn.number), step)
        return changed_settings(turn, changed, derived_seed=derived)

    def check_same_model(self, lm: LoadedModel, *, other_model: bool = False) -> tuple[str, ...]:
        """Raise ModelError if weights or tokenizer are not the recorded ones. Return what differs.

        With `other_model` the weights may be others; the tokenizer may not, whose ids are shared.
        Warn of another chat template: the recorded prompts are kept, and new messages are rendered
        by this one.
        """
        started = self.started
        same = {
            "weights": lm.identity.weights_sha256 == started.weights_sha256,
            "tokenizer": fingerprints.tokenizer_sha256(lm.tokenizer) == started.tokenizer_sha256,
        }
        others = [name for name, is_same in same.items() if not is_same]
        recorded = f"run {self.recording.run_id} was recorded with {started.model or 'a model'}"
        if others and not other_model:
            raise ModelError(
                f"{recorded} that has other {' and '.join(others)} than {lm.name}: load that one"
            )
        if "tokenizer" in others:
            raise ModelError(
                f"{recorded} that has another tokenizer than {lm.name}: a fork shares the ids of "
                "its prompts; record a new run with these messages instead"
            )
        if not self._is_template_of(lm.tokenizer):
            warnings.warn(
                f"run {visible(self.recording.run_id)} was recorded with another chat template "
                f"than that of {visible(lm.name)}: its prompts stay as recorded, "
                "new messages are written by this one",
                UserWarning,
                stacklevel=3,
            )
        if started.dtype != lm.identity.described()["dtype"]:
            others.append("dtype")
        if self._adapters not in (None, active_adapters(lm.model)):
            others.append("adapters")
        return tuple(others)

    @property
    def _adapters(self) -> str | None:
        """The adapters that the last turn was generated with; None if no event says that."""
        keys = [each.cache.key for each in self.turns if each.cache is not None and each.cache.key]
        return str(keys[-1].get("adapters", NO_ADAPTERS)) if keys else None

    def check_has_tools(self, tools: ToolInterface | None) -> None:
        """Raise PromptError if a tool of the run is missing. Warn of one with another source."""
        missing = sorted(set(self.started.tools) - set(tools.names if tools else ()))
        if missing:
            raise missing_tools(self.recording.run_id, missing, self.started.tool_sources)
        if tools is not None:
            warn_of_source_changes(self.started.tool_sources, tools.sources())

    def _is_template_of(self, tokenizer: PreTrainedTokenizerBase) -> bool:
        return fingerprints.template_sha256(tokenizer) == self.started.template_sha256

    def check_can_continue(self) -> None:
        """Raise PromptError if the events do not hold all that the conversation consists of."""
        run_id = self.recording.run_id
        if self.started.redacted:
            raise PromptError(f"run {run_id} was redacted: it cannot be continued")
        if self.settings.history == NO_HISTORY:
            raise PromptError(f"run {run_id} has calls of `generate`, and no conversation")
        if self.system is None:
            raise PromptError(f"run {run_id} ended before its system prompt: record a new run")


def recorded_format(started: RunStarted) -> ConversationFormat:
    """Return the format in which the chat template was given the messages of a run."""
    if started.conversation_format:
        return ConversationFormat.from_record(started.conversation_format)
    # Version 0.1.0 chose only the role of results.
    in_user = RunSettings.from_record(started.settings).tool_result_role == "user"
    style = ResultStyle.USER if in_user else ResultStyle.TOOL
    return ConversationFormat(user_results=style, model_results=style)


def recorded_result(turn: Turn) -> TurnResult:
    """Return the result of a recorded round as the engine returned it.

    Raise RecordingError if it has no cache decision.
    """
    started, finished = turn.started, turn.finished
    if finished is None or turn.cache is None:
        raise RecordingError(f"turn {turn.number} is finished but has no CacheDecided")
    return TurnResult(
        turn=turn.number,
        prompt=prompt_of(turn),
        token_ids=turn.reply_ids,
        text=finished.text,
        stop_text=finished.stop_text,
        stop_reason=finished.stop_reason,
        seed=started.seed,
        cache=turn.cache,
        duration_us=finished.duration_us,
        first_step=started.first_step,
    )


def resumed_event(
    opened: Turn | None,
    lm: LoadedModel,
    generator: ManualGenerator,
    tool_sources: Mapping[str, Any],
) -> RunResumed:
    """Return the event with which a run continues; `opened` is the round that was cut off.

    Later turns of the generator are computed with the threads and flags that it names.
    """
    with generator.numerics.recorded():
        return _resumed_now(opened, lm, tool_sources)


def _resumed_now(
    opened: Turn | None, lm: LoadedModel, tool_sources: Mapping[str, Any]
) -> RunResumed:
    return RunResumed(
        turn=None if opened is None else opened.number,
        step=None if opened is None else opened.first_step + len(opened.tokens),
        weights_sha256=lm.identity.weights_sha256,
        sampler_sha256=fingerprints.sampler_sha256(),
        device=lm.model.device.type,
        threads=torch.get_num_threads(),
        environment=fingerprints.environment(cuda_device(lm.model)),
        process=process.this_process(),
        tool_sources=dict(tool_sources),
    )


def _before(envelopes: Sequence[Envelope], turn: int) -> list[Envelope]:
    """Return the events before the turn. Raise PromptError if the turn before is not finished."""
    kept: list[Envelope] = []
    for each in envelopes:
        of_turn = each.turn is not None and each.turn >= turn
        if of_turn and not isinstance(each.event, SystemPromptCached):
            break
        kept.append(each)
    finished = [each.event.turn for each in kept if isinstance(each.event, TurnFinished)]
    last = max(finished, default=0)
    if turn < 1 or last != turn - 1:
        raise PromptError(f"there is no turn {turn} to begin: {last} turns are finished")
    return kept


def _tool_calls(
    envelopes: Sequence[Envelope],
) -> tuple[int, dict[str, tuple[ToolCalled, ToolReturned]]]:
    """Return the number of calls whose results a prompt has shown, and the unread results."""
    calls = 0
    called: dict[str, ToolCalled] = {}
    answered: dict[str, tuple[ToolCalled, ToolReturned]] = {}
    messages: list[MessageAdded] = []
    for each in envelopes:
        event = each.event
        if isinstance(event, ToolCalled):
            called[event.call_id] = event
        elif isinstance(event, ToolReturned) and event.call_id in called:
            answered[event.call_id] = (called[event.call_id], event)
        elif isinstance(event, MessageAdded):
            messages.append(event)
        elif isinstance(event, RunResumed):
            messages = []
        elif isinstance(event, TurnStarted):
            calls += sum(message.tool_call_id is not None for message in messages)
            for message in messages:
                answered.pop(message.tool_call_id or "", None)
            messages = []
    return calls, answered
