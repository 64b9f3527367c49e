"""A run in the terms of other programs: messages, calls of the model, calls of tools."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from tokentape.recorder import Envelope, Recording
from tokentape.recorder.events import (
    CacheDecided,
    ConversationImported,
    HistoryPruned,
    MessageAdded,
    MessageDetailsImported,
    PrefillCompleted,
    RunFailed,
    RunFinished,
    RunForked,
    RunResumed,
    RunStarted,
    SystemPromptCached,
    TokenSampled,
    TokensSpelled,
    ToolCalled,
    ToolCaller,
    ToolReturned,
    TurnFinished,
    TurnStarted,
)


@dataclass(slots=True, kw_only=True)
class ExportedCall:
    """A tool call."""

    run_id: str
    """The run that recorded it: in a fork, perhaps the parent."""
    seq: int
    at_us: int
    called: ToolCalled
    returned: ToolReturned | None = None
    ended_us: int | None = None
    """When it returned; None if it did not."""


@dataclass(slots=True, kw_only=True)
class ExportedRound:
    """A call of the model: a turn, or one round of a turn in which it called tools."""

    run_id: str
    """The run that recorded it: in a fork, perhaps the parent."""
    seq: int
    at_us: int
    started: TurnStarted
    prompt: tuple[int, ...]
    """The indices of the messages in its prompt; not of those that were pruned."""
    ended_us: int | None = None
    cache: CacheDecided | None = None
    prefill: PrefillCompleted | None = None
    finished: TurnFinished | None = None
    """None if the run was cut off in it."""
    pruned: HistoryPruned | None = None
    tokens: list[TokenSampled] = field(default_factory=list)
    calls: list[ExportedCall] = field(default_factory=list)
    """The calls in its reply."""
    begun: str = ""
    """The text of the tokens that a fork at a token continues."""

    @property
    def text(self) -> str:
        """The reply; empty if the run was cut off in it."""
        return "" if self.finished is None else self.begun + self.finished.text


@dataclass(slots=True, kw_only=True)
class ExportedMessage:
    """A message of the conversation."""

    run_id: str
    seq: int
    at_us: int
    role: str
    content: str
    tool_call_id: str | None = None
    round: ExportedRound | None = None
    """The round that it is the reply of."""
    details: MessageDetailsImported | None = None
    """What else the file of an imported conversation says of it."""


@dataclass(slots=True, kw_only=True)
class ExportedRun:
    """The messages, rounds and tool calls of a run, with those that a fork shares."""

    run_id: str
    where: str
    """The store, as the command line names it."""
    started: RunStarted
    started_us: int
    ended: RunFinished | RunFailed | None
    """None for a run that is being recorded or was killed."""
    ended_us: int
    """The time of the last event."""
    forked: RunForked | None
    imported: ConversationImported | None
    messages: list[ExportedMessage]
    rounds: list[ExportedRound]
    calls: list[ExportedCall]
    texts: Mapping[tuple[str, int], str]
    """The texts of token ids, by run and id."""

    @property
    def url(self) -> str:
        """The run within its store, as `tokentape show` takes it."""
        return f"{self.where}#{self.run_id}"

    @property
    def calls_by_id(self) -> dict[str, ExportedCall]:
        """The tool calls by their ids."""
        return {each.called.call_id: each for each in self.calls}

    def text_of(self, round_: ExportedRound, token_id: int) -> str | None:
        """Return the text of a token of a round; None if none is recorded, as in 0.1.0.

        A fork does not share the event that spells the tokens of the turn in which it begins, and
        spells them itself.
        """
        if self.started.redacted:
            return None
        keys = ((round_.run_id, token_id), (self.run_id, token_id))
        return next((self.texts[key] for key in keys if key in self.texts), None)


def read_exported(recording: Recording) -> ExportedRun:
    """Read a run. Raise RecordingError if its events are damaged or contradict each other."""
    reader = _Reader()
    for envelope in recording.events():
        reader.add(envelope)
    started = recording.started()
    return reader.finish(recording, started)


def exported_runs(recordings: Iterable[Recording]) -> Iterator[ExportedRun]:
    """Yield each of several runs once, read when it is needed."""
    seen: set[str] = set()
    for recording in recordings:
        if recording.run_id not in seen:
            seen.add(recording.run_id)
            yield read_exported(recording)


class _Reader:
    """Folds events, in order, into messages, rounds and calls."""

    def __init__(self) -> None:
        self._messages: list[ExportedMessage] = []
        self._coming: list[ExportedMessage] = []
        self._visible: list[int] = []
        self._rounds: list[ExportedRound] = []
        self._open: ExportedRound | None = None
        self._pruned: HistoryPruned | None = None
        self._calls: list[ExportedCall] = []
        self._texts: dict[tuple[str, int], str] = {}
        self._first_us = self._last_us = -1

    def add(self, envelope: Envelope) -> None:
        event = envelope.event
        if self._first_us < 0:
            self._first_us = envelope.at_us
        self._last_us = max(self._last_us, envelope.at_us)
        if isinstance(event, TokenSampled | CacheDecided | PrefillCompleted):
            self._add_to_round(event)
        elif isinstance(event, SystemPromptCached):
            if event.content:
                self._coming.append(_message(envelope, "system", event.content))
        elif isinstance(event, MessageAdded):
            said = _message(envelope, event.role, event.content)
            said.tool_call_id = event.tool_call_id
            self._coming.append(said)
        elif isinstance(event, MessageDetailsImported) and self._coming:
            self._coming[-1].details = event
        elif isinstance(event, HistoryPruned):
            self._prune(event)
        elif isinstance(event, RunResumed):
            self._resume(event)
        elif isinstance(event, TurnStarted):
            self._start(event, envelope)
        elif isinstance(event, TurnFinished):
            self._finish(event, envelope)
        elif isinstance(event, ToolCalled):
            self._call(event, envelope)
        elif isinstance(event, ToolReturned):
            self._return(event, envelope)
        elif isinstance(event, TokensSpelled):
            self._texts |= {
                (envelope.run_id, int(each)): text for each, text in event.texts.items()
            }

    def finish(self, recording: Recording, started: RunStarted) -> ExportedRun:
        self._commit()
        return ExportedRun(
            run_id=recording.run_id,
            where=recording.where,
            started=started,
            started_us=self._first_us,
            ended=recording.ended(),
            ended_us=self._last_us,
            forked=recording.forked(),
            imported=recording.imported(),
            messages=self._messages,
            rounds=self._rounds,
            calls=self._calls,
            texts=self._texts,
        )

    def _commit(self) -> None:
        """Make the messages that were added a part of the conversation."""
        for each in self._coming:
            self._visible.append(len(self._messages))
            self._messages.append(each)
        self._coming = []

    def _prune(self, event: HistoryPruned) -> None:
        gone = set(event.removed_messages)
        self._visible = [each for at, each in enumerate(self._visible) if at not in gone]
        self._pruned = event

    def _resume(self, event: RunResumed) -> None:
        # They are recorded again. A system prompt is not.
        self._coming = [each for each in self._coming if each.role == "system"]
        self._pruned = None
        if event.turn is None:
            self._open = None

    def _start(self, event: TurnStarted, envelope: Envelope) -> None:
        begun = self._open
        if event.continued_tokens and begun is not None and begun.started.turn == event.turn:
            begun.begun += event.added_text
            return
        self._commit()
        self._open = ExportedRound(
            run_id=envelope.run_id,
            seq=envelope.seq,
            at_us=envelope.at_us,
            started=event,
            prompt=tuple(self._visible),
            pruned=self._pruned,
        )
        self._pruned = None
        self._rounds.append(self._open)

    def _add_to_round(self, event: TokenSampled | CacheDecided | PrefillCompleted) -> None:
        if self._open is None:
            return
        if isinstance(event, TokenSampled):
            self._open.tokens.append(event)
        elif isinstance(event, CacheDecided):
            self._open.cache = self._open.cache or event
        else:
            self._open.prefill = self._open.prefill or event

    def _finish(self, event: TurnFinished, envelope: Envelope) -> None:
        if self._open is None:
            return
        self._open.finished, self._open.ended_us = event, envelope.at_us
        reply = _message(envelope, "assistant", self._open.text)
        reply.round = self._open
        self._coming.append(reply)
        self._commit()
        self._open = None

    def _call(self, event: ToolCalled, envelope: Envelope) -> None:
        call = ExportedCall(
            run_id=envelope.run_id, seq=envelope.seq, at_us=envelope.at_us, called=event
        )
        self._calls.append(call)
        if event.caller is ToolCaller.MODEL and self._rounds:
            self._rounds[-1].calls.append(call)

    def _return(self, event: ToolReturned, envelope: Envelope) -> None:
        for call in reversed(self._calls):
            if call.called.call_id == event.call_id:
                call.returned, call.ended_us = event, envelope.at_us
                return


def _message(envelope: Envelope, role: str, content: str) -> ExportedMessage:
    return ExportedMessage(
        run_id=envelope.run_id, seq=envelope.seq, at_us=envelope.at_us, role=role, content=content
    )
