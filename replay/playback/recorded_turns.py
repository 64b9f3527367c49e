"""A recorded run as a playback needs it: what each turn was asked, and what it answered."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tokentape.recorder import Recording, RecordingError
from tokentape.recorder.escapes import visible
from tokentape.recorder.events import (
    MessageAdded,
    RunStarted,
    SystemPromptCached,
    TokensSpelled,
    ToolCalled,
    ToolCaller,
    ToolReturned,
    TurnStarted,
)
from tokentape.recorder.events.tool import NOT_RUN
from tokentape.recorder.projections import Turn, join_continued
from tokentape.replay.recorded.loaded_run import LoadedRun, load_run

_OWN_PROMPT = "own_prompt"
"""As in `tokentape.generation.history.prompt`, which imports transformers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedCall:
    """A call of a tool and its result; None if the run ended before it returned."""

    called: ToolCalled
    returned: ToolReturned | None

    @property
    def was_run(self) -> bool:
        """Whether a tool was run: not for a call that cannot be read, or above the limit."""
        error = None if self.returned is None else self.returned.error
        return bool(self.called.name) and not (error or "").startswith(NOT_RUN)


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedRound:
    """A prompt and its reply. A turn has several rounds if the model called tools in it."""

    number: int
    """From 1, within the turn."""
    turn: Turn
    system: SystemPromptCached | None
    """The system prompt of the conversation."""
    calls: tuple[RecordedCall, ...]
    """The calls of the model with which the round ended."""
    at_us: int
    """When it began, in microseconds since 1970 UTC."""

    @property
    def is_own_prompt(self) -> bool:
        """Whether its prompt does not continue the conversation, as those of `generate`."""
        return self.turn.started.history_reason == _OWN_PROMPT

    @property
    def text(self) -> str:
        """The text of the reply, calls included."""
        return self.turn.reply_text or ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedTurn:
    """A finished turn."""

    number: int
    user_calls: tuple[RecordedCall, ...]
    """The calls that the user made before it, whose results are in its first prompt."""
    rounds: tuple[RecordedRound, ...]

    @property
    def message(self) -> MessageAdded | None:
        """The user's message; None for a prompt that was given as ids."""
        added = self.rounds[0].turn.messages
        return next((each for each in added if each.tool_call_id is None), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedRun:
    """A run whose turns can be played."""

    recording: Recording
    started: RunStarted
    turns: tuple[RecordedTurn, ...]
    """Those that finished. A turn that was cut off has no reply to play."""
    systems: tuple[SystemPromptCached, ...]
    """The system prompts, in order; one that is empty begins a conversation without one."""
    texts: Mapping[int, str]
    """The texts of token ids, as far as they are recorded."""
    parent: str
    """The id of the run that it was forked from, or empty."""

    @property
    def run_id(self) -> str:
        return self.recording.run_id

    @property
    def described(self) -> str:
        """The run and where it is, for people."""
        where = f" of {visible(self.recording.where)}" if self.recording.where else ""
        return f"run {visible(repr(self.started.name))} ({self.run_id}){where}"

    @classmethod
    def load(cls, recording: Recording) -> "RecordedRun":
        """Read a run. Raise RecordingError if its events are damaged or were altered."""
        loaded = load_run(recording)
        faults = loaded.broken_prompt_hashes()
        if loaded.seals is not None and loaded.seals.fault:
            faults.append(loaded.seals.fault)
        if faults:
            raise RecordingError(f"run {loaded.run_id} is altered: {faults[0]}")
        forked = loaded.forked
        return cls(
            recording=recording,
            started=loaded.started,
            turns=tuple(_finished_turns(loaded)),
            systems=tuple(_events_of(loaded, SystemPromptCached)),
            texts=_texts(loaded),
            parent="" if forked is None else forked.parent_run_id,
        )

    def rounds(self) -> Iterator[tuple[RecordedTurn, RecordedRound]]:
        """Yield every round with its turn, in order."""
        for turn in self.turns:
            for each in turn.rounds:
                yield turn, each


def _finished_turns(loaded: LoadedRun) -> Iterator[RecordedTurn]:
    systems = _systems_by_turn(loaded)
    times = {
        (each.event.turn, each.event.first_step): each.at_us
        for each in reversed(loaded.envelopes)
        if isinstance(each.event, TurnStarted)
    }
    returned = {each.call_id: each for each in _events_of(loaded, ToolReturned)}
    # Of a call that a resumed run made again, the last one counts.
    called = {each.call_id: each for each in _events_of(loaded, ToolCalled)}
    calls = {
        call_id: RecordedCall(called=each, returned=returned.get(call_id))
        for call_id, each in called.items()
    }
    by_turn: dict[int, list[Turn]] = {}
    for each in join_continued(loaded.turns):
        by_turn.setdefault(each.number, []).append(each)
    for number, rounds in by_turn.items():
        if any(each.finished is None for each in rounds):
            continue
        of_user = (each.tool_call_id for each in rounds[0].messages)
        yield RecordedTurn(
            number=number,
            user_calls=tuple(calls[each] for each in of_user if each in calls),
            rounds=tuple(
                RecordedRound(
                    number=index,
                    turn=each,
                    system=systems.get(number),
                    calls=_calls_after(each, calls),
                    at_us=times[each.number, each.first_step],
                )
                for index, each in enumerate(rounds, start=1)
            ),
        )


def _calls_after(turn: Turn, calls: Mapping[str, RecordedCall]) -> tuple[RecordedCall, ...]:
    """Return the calls that the model made at the end of a round."""
    step = turn.first_step + len(turn.tokens)
    found = (each for each in calls.values() if each.called.caller is ToolCaller.MODEL)
    places = ((each, (each.called.turn, each.called.step)) for each in found)
    return tuple(each for each, place in places if place == (turn.number, step))


def _systems_by_turn(loaded: LoadedRun) -> dict[int, SystemPromptCached]:
    found: dict[int, SystemPromptCached] = {}
    newest: SystemPromptCached | None = None
    for envelope in loaded.envelopes:
        event = envelope.event
        if isinstance(event, SystemPromptCached):
            newest = event
        elif isinstance(event, TurnStarted) and newest is not None:
            found.setdefault(event.turn, newest)
    return found


def _events_of(loaded: LoadedRun, kind: type[Any]) -> list[Any]:
    return [each.event for each in loaded.envelopes if isinstance(each.event, kind)]


def _texts(loaded: LoadedRun) -> dict[int, str]:
    spelled = _events_of(loaded, TokensSpelled)
    return {int(token_id): text for each in spelled for token_id, text in each.texts.items()}
