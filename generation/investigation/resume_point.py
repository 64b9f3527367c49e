"""Where a recorded run stands, for another process to go on from there."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from tokentape.generation import fingerprints
from tokentape.generation.checks import check_count, check_seed
from tokentape.generation.engine.manual_generator import ManualGenerator
from tokentape.generation.engine.turn import TurnResult, TurnSettings
from tokentape.generation.errors import ModelError, PromptError
from tokentape.generation.hf import check_settings, recorded_config
from tokentape.generation.history.conversation import HISTORIES, Prompt
from tokentape.generation.history.restored_conversation import restore_conversation
from tokentape.generation.models.loading import LoadedModel
from tokentape.recorder import Envelope, Recording, RecordingError
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
from tokentape.recorder.projections import RequestedInterventions, Turn, iterate_turns
from tokentape.recorder.redaction import REDACTED
from tokentape.recorder.seals import SealChain

OF_THE_PROCESS = ("prefix_folder", "threads")
"""Settings of an investigation that no recording has."""
CHANGED_IN_FORKS = (
    "name",
    "seed",
    "at_context_limit",
    "context_budget_tokens",
    "tool_calls_max",
    "prefill_chunk_tokens",
    "candidates",
    "cache_bytes",
)
"""Those that may be others behind a shared past."""
_RECORDED = (
    *CHANGED_IN_FORKS[2:],
    "tool_call_format",
    "history",
    "template_settings",
)
# What a generator records of itself.
_DERIVED = ("cache_policy", "tools")


@dataclass(frozen=True, slots=True, kw_only=True)
class ResumePoint:
    """A run up to some event: what was said, and which results of tools nobody has read yet.

    `envelopes` are its events, those that a fork shares included. `calls` counts the calls whose
    results were read.
    """

    recording: Recording
    started: RunStarted
    envelopes: Sequence[Envelope]
    turns: Sequence[Turn]
    calls: int
    answered: Mapping[str, tuple[ToolCalled, ToolReturned]]

    @classmethod
    def of(cls, recording: Recording, *, before_turn: int | None = None) -> "ResumePoint":
        """Where the run stands, or stood before a turn. Raises RecordingError for a damaged run."""
        envelopes = list(recording.events())
        if before_turn is not None:
            envelopes = _before(envelopes, before_turn)
        calls, answered = _tool_calls(envelopes)
        return cls(
            recording=recording,
            started=recording.started(),
            envelopes=envelopes,
            turns=list(iterate_turns(envelopes)),
            calls=calls,
            answered=answered,
        )

    @property
    def system(self) -> SystemPromptCached | None:
        """The newest system prompt, if there is one."""
        found = (each.event for each in reversed(self.envelopes))
        return next((each for each in found if isinstance(each, SystemPromptCached)), None)

    @property
    def last_turn(self) -> int:
        return self.turns[-1].number if self.turns else 0

    @property
    def open_turn(self) -> Turn | None:
        """The turn that was cut off, where events can rebuild how it was generated."""
        if not self.turns or self.turns[-1].finished is not None:
            return None
        return None if self.turns[-1].started.unreplayable else self.turns[-1]

    def restore(self, generator: ManualGenerator, *, goes_on: bool = False) -> Prompt | None:
        """Put a generator where the run stood; the prompt of the last turn if that `goes_on`.

        Raises RecordingError where today's tokenizer or template makes other prompts, ModelError
        for interventions that cannot be asked for again.
        """
        conversation = generator.conversation.fresh()
        prompt = restore_conversation(
            conversation,
            self.started,
            self.system,
            self.turns,
            context_tokens=self.started.context_tokens,
            last_is_open=goes_on,
        )
        asked = RequestedInterventions.of(self.envelopes)
        generator.restore(self.turns, conversation, asked, self.recording.read_blob)
        return prompt

    def forked(self, at_turn: int, changes: Mapping[str, Any]) -> RunForked:
        """The event of a fork from here: the run that has the last of these events is its parent.

        `changes` are what is to be otherwise.
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
        )

    def refuse_other_model(self, lm: LoadedModel) -> None:
        """Raise ModelError where the recorded tokens are not those of this model."""
        started = self.started
        same = {
            "weights": lm.identity.weights_sha256_for(started) == started.weights_sha256,
            "tokenizer": fingerprints.tokenizer_sha256(lm.tokenizer) == started.tokenizer_sha256,
            "chat template": fingerprints.template_sha256(lm.tokenizer) == started.template_sha256,
        }
        others = [name for name, is_same in same.items() if not is_same]
        if others:
            raise ModelError(
                f"run {self.recording.run_id} was recorded with {started.model or 'a model'} that "
                f"has other {' and '.join(others)} than {lm.name}: load that one"
            )

    def refuse_what_cannot_go_on(self) -> None:
        """Raise PromptError where the events are not all that the run was made of."""
        run_id, behaviour = self.recording.run_id, self.started.behaviour
        if REDACTED in behaviour:
            raise PromptError(f"run {run_id} was redacted: nobody can go on with it")
        if behaviour.get("history", HISTORIES[0]) not in HISTORIES:
            raise PromptError(f"run {run_id} has calls of `generate`, and no conversation")
        if self.system is None:
            raise PromptError(f"run {run_id} had not begun: nothing was put before the model yet")

    @property
    def tools(self) -> tuple[str, ...]:
        """The names of the tools that the run was begun with."""
        return tuple(self.started.behaviour.get("tools", ()))

    def settings(self) -> dict[str, Any]:
        """What `Investigation` is to be given to go on as the run was begun, but for its tools."""
        behaviour = self.started.behaviour
        known = {name: behaviour[name] for name in _RECORDED if name in behaviour}
        rest = {name: behaviour[name] for name in behaviour if name not in (*_RECORDED, *_DERIVED)}
        return {
            "name": self.started.name,
            "seed": self.started.seed or 0,
            **known,
            "behaviour": rest,
        }


def check_settings_known(settings: Mapping[str, Any], known: Sequence[str]) -> None:
    """Raise PromptError for a setting that cannot be given to a run that goes on."""
    for name in settings:
        if name not in known:
            raise PromptError(
                f"{name} cannot be set for a run that has begun; there are {', '.join(known)}"
            )


def recorded_settings(turn: Turn, changes: Mapping[str, Any] | None = None) -> TurnSettings:
    """The settings of a recorded turn, with changes. Raises ModelError for what no setting is."""
    bypassed = turn.cache is not None and turn.cache.reason == "user_bypass"
    sampling = {**turn.started.sampling, **(changes or {})}
    if sampling.get("temperature") == 0:
        sampling["do_sample"] = False
    # A minimal length of zero is the one setting that goes unrecorded though it is a default.
    config = recorded_config({"min_length": 0, **sampling})
    return TurnSettings(
        config=config,
        seed=turn.started.seed if config.do_sample else None,
        use_cache=not bypassed,
    )


def check_has_settings(changes: Mapping[str, Any]) -> None:
    """Raise ModelError for what no turn has as a setting, and for no length of a reply."""
    if "max_new_tokens" in changes:
        check_count("max_new_tokens", changes["max_new_tokens"])
    recorded_config({name: changes[name] for name in changes if name != "seed"})


def check_changes(lm: LoadedModel, turn: Turn, changes: Mapping[str, Any]) -> None:
    """Raise ModelError for changes of a turn's settings that `generate` has not, or refuses."""
    others = {name: changes[name] for name in changes if name != "seed"}
    check_seed(changes.get("seed"))
    ids = torch.zeros((1, 1), dtype=torch.long, device=lm.model.device)
    check_settings(lm.model, lm.tokenizer, recorded_settings(turn, others).config, ids)


def recorded_result(turn: Turn) -> TurnResult:
    """A part of a turn that finished in another process, as the engine would have given it."""
    started, finished = turn.started, turn.finished
    if finished is None or turn.cache is None:
        raise RecordingError(f"turn {turn.number} has finished without a decision on its cache")
    return TurnResult(
        turn=turn.number,
        prompt=Prompt(
            ids=turn.prompt_ids,
            text=turn.prompt_text,
            messages=turn.messages,
            kept_tokens=started.kept_tokens,
            kept_chars=started.kept_chars,
            added_ids=started.added_ids,
            added_text=started.added_text,
            history_reason=started.history_reason,
        ),
        token_ids=turn.reply_ids,
        text=finished.text,
        stop_text=finished.stop_text,
        stop_reason=finished.stop_reason,
        seed=started.seed,
        cache=turn.cache,
        duration_us=finished.duration_us,
        first_step=started.first_step,
    )


def _before(envelopes: Sequence[Envelope], turn: int) -> list[Envelope]:
    """What there was before anything of the turn. Raises PromptError where it was never so."""
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
    """How many calls have been read by the model, and the answers that have not."""
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
