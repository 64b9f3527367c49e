"""The recorder: it puts the events of a run in order and appends each to a log at once."""

import os
import weakref
from collections.abc import Callable
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Protocol, Self

from tokentape.recorder.clock import now_us
from tokentape.recorder.codec import decode, encode, kind_of
from tokentape.recorder.envelope import Envelope, TurnCounter
from tokentape.recorder.errors import RecordingError, Terminated, TokentapeError
from tokentape.recorder.events import (
    CacheDecided,
    Event,
    MessageAdded,
    RunFailed,
    RunFinished,
    RunForked,
    RunResumed,
    RunStarted,
    SystemPromptCached,
    TokenSampled,
    TokensSpelled,
    TurnStarted,
)
from tokentape.recorder.events.run import CLOSED, INTERRUPTED
from tokentape.recorder.projections.summary import RunSummary, summarise
from tokentape.recorder.record import Record
from tokentape.recorder.recording import Recording
from tokentape.recorder.redaction import Redaction, Redactor
from tokentape.recorder.run_id import uuid7
from tokentape.recorder.seals import SealChain, SealCheck
from tokentape.recorder.short_forms import counted, short_repr
from tokentape.recorder.storable import check_run_id, check_summary, check_time, storable
from tokentape.recorder.tracebacks import traceback_text


class EventLog(Protocol):
    """The storage that a recorder appends to. Every store is one; a user may write another.

    The recorder calls it from one thread, in the order of the events, with `RunStarted` first. If
    a call raises, the recorder accepts no further event of the run but `RunFailed`.

    Example:
        >>> import tokentape as tt
        >>> class KindCounter:
        ...     def __init__(self):
        ...         self.kinds = []
        ...     def append(self, envelope, record, *, durable, summary):
        ...         self.kinds.append(record.kind)
        ...     def put_blob(self, sha256, payload):
        ...         pass
        >>> log = KindCounter()
        >>> with tt.Recorder(log) as recorder:
        ...     generator = tt.ManualGenerator(lm.model, lm.tokenizer, recorder)
        ...     result = generator.generate("Hello", max_new_tokens=2)
        >>> log.kinds[0], log.kinds.count("TokenSampled"), log.kinds[-1]
        ('RunStarted', 2, 'RunFinished')
    """

    def append(
        self, envelope: Envelope, record: Record, *, durable: bool, summary: RunSummary | None
    ) -> None:
        """Store an event before returning.

        `record` is the event of `envelope` in its stored form: a store writes it as it is. If the
        process dies after the call, the event must be there; with `durable`, also after a loss of
        power. `summary` is the run's summary after this event, or None if the event does not
        change it. Raise StoreError if the event is not the next one of its run.
        """

    def put_blob(self, sha256: str, payload: bytes) -> None:
        """Store a payload under its hexadecimal sha256, unless it is stored already."""


@dataclass(frozen=True, slots=True)
class _Prepared:
    """An event that every store can hold, before it has a turn and a seal."""

    event: Event
    at_us: int
    body: str | None
    """Its body as JSON; None for a `TokenSampled`."""
    summary: RunSummary | None
    """The summary of the run after it, if it changes that."""


class Recorder:
    """Records the events of one run.

    As a context manager it ends the run: with `RunFinished` and the totals, also after a
    KeyboardInterrupt or Terminated, or with `RunFailed` after any other exception. A `redactor`
    rewrites every text before it is recorded; see `recorder.redaction`.

    Example:
        >>> import tokentape as tt
        >>> def redact(text):
        ...     return text.replace("Ada", "[name]")
        >>> with tt.Recorder(store, redactor=redact) as recorder:
        ...     generator = tt.ManualGenerator(lm.model, lm.tokenizer, recorder)
        ...     result = generator.generate("Who is Ada?", max_new_tokens=2)
        >>> store.recording(recorder.run_id).messages()[0].content
        'Who is [name]?'
    """

    def __init__(
        self,
        log: EventLog,
        *,
        run_id: str | None = None,
        redactor: Redactor | None = None,
        clock_us: Callable[[], int] = now_us,
        random_bytes: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self.run_id = run_id or _new_id(clock_us(), random_bytes(10))
        check_run_id(self.run_id)
        self.ended = False
        """Whether the last event ended the run."""
        self._log = log
        self._clock_us = clock_us
        self._redaction = None if redactor is None else Redaction(redactor)
        self._turns = TurnCounter()
        self._chain = SealChain(self.run_id)
        self._next_seq = 0
        self._last_turn = 0
        self._lost: str | None = None
        self._owner: weakref.ref[object] | None = None
        self._summary: RunSummary | None = None
        self._must_resume = False
        self._redacted = redactor is not None
        self._spelled: set[int] = set()
        self._unspelled: set[int] = set()

    @classmethod
    def resume(
        cls, log: EventLog, recording: Recording, *, clock_us: Callable[[], int] = now_us
    ) -> "Recorder":
        """Return a recorder that continues a run after its last event.

        Its first event must be `RunResumed`. A run has one writer: once that event is stored, a
        recorder in another process that still records the run fails. Raise RecordingError for a
        run that was altered.
        """
        recorder = cls(log, run_id=recording.run_id, clock_us=clock_us)
        seals = SealCheck(recording.run_id)
        for record in recording.records():
            seals.add(record)
            if seals.fault:
                raise RecordingError(f"run {recording.run_id} is altered: {seals.fault}")
            envelope = decode(recording.run_id, record)
            recorder._turns.turn_of(envelope.event)
            recorder._advance(envelope, record, recorder._summary_after(envelope))
        recorder.ended, recorder._must_resume = False, True
        return recorder

    def __repr__(self) -> str:
        state = "active" if self.is_active else "ended" if self.ended else "not started"
        return short_repr(self, self.run_id, f"({state}),", counted(self._next_seq, "event"))

    @property
    def started(self) -> bool:
        """Whether the run has an event."""
        return self._next_seq > 0

    @property
    def is_active(self) -> bool:
        """Whether the run has started, or was resumed, and has not ended."""
        return self.started and not self.ended and not self._must_resume

    @property
    def last_turn(self) -> int:
        """The number of the last turn that started; zero before the first."""
        return self._last_turn

    def unspelled_ids(self) -> list[int]:
        """Return the ids of the run that `TokensSpelled` should have and has not yet, in order.

        Empty for a redacted run, which does not record what its tokens are, and for a run that
        lost an event: it accepts no other.
        """
        if self._redacted or self._lost is not None:
            return []
        return sorted(self._unspelled - self._spelled)

    def claim(self, owner: object) -> None:
        """Reserve the recorder for the object that records turns with it.

        Raise TokentapeError if it is reserved for another: two generators would mix their streams
        of ids.
        """
        if self._owner is not None and self._owner() is not owner:
            raise TokentapeError(
                f"run {self.run_id} is recorded by another generator already: make a recorder "
                "for each"
            )
        # A run that ends after its investigation was deleted must not keep the model in memory.
        self._owner = weakref.ref(owner)

    def record(self, event: Event) -> Envelope:
        """Append an event to the run; it is stored when this returns.

        A lone surrogate in a text is recorded as its escape. Raise RecordingError, before anything
        is stored, for an event that no store can hold, such as one with NaN in the arguments of a
        call; the run can continue without it. Raise TokentapeError if the run has ended, if the
        event cannot come next, and, for any event but `RunFailed`, after an event that could not
        be stored: a run has no gap.
        """
        self._check_next(event)
        ready = None if self._redaction is not None else self._prepared(event)
        try:
            if self._redaction is not None:
                ready = self._prepared(self._redaction.redact(event))
            assert ready is not None
            envelope, record = self._seal_and_wrap(ready)
            durable = event.traits.durable
            self._log.append(envelope, record, durable=durable, summary=ready.summary)
        except BaseException as error:
            self._lost = f"{type(error).__name__}: {error}"
            raise
        self._advance(envelope, record, ready.summary)
        self._must_resume = False
        return envelope

    def _check_next(self, event: Event) -> None:
        if self.ended:
            raise TokentapeError(f"run {self.run_id} has ended; nothing can be added to it")
        if self._lost is not None and not isinstance(event, RunFailed):
            raise TokentapeError(
                f"run {self.run_id} lost an event ({self._lost}); nothing can be added to it"
            )
        if isinstance(event, RunStarted) == self.started:
            raise TokentapeError("a run has one RunStarted, and it comes first")
        if isinstance(event, RunResumed) != self._must_resume:
            raise TokentapeError("a resumed recorder records RunResumed first, and only then")

    def _prepared(self, event: Event) -> "_Prepared":
        """Return an event that every store can hold. Raise RecordingError if none can."""
        try:
            event, body = storable(event)
            at_us = self._clock_us()
            check_time(at_us)
            summary = None
            if event.traits.changes_summary:
                summary = self._summary_after(Envelope(self.run_id, self._next_seq, at_us, event))
            if summary is not None:
                check_summary(summary)
        except RecordingError as error:
            place = f"run {self.run_id}, event {self._next_seq}, {kind_of(event)}"
            raise RecordingError(f"{place}: {error}") from error
        return _Prepared(event, at_us, body, summary)

    def _seal_and_wrap(self, ready: "_Prepared") -> tuple[Envelope, Record]:
        """Return the event in its place in the run, decoded and encoded, with a seal if due."""
        event = ready.event
        turn = self._turns.turn_of(event)
        envelope = Envelope(self.run_id, self._next_seq, ready.at_us, event, turn)
        record = encode(envelope, ready.body)
        if event.traits.sealed:
            seal = self._chain.seal_of(record)
            envelope, record = replace(envelope, seal=seal), replace(record, seal=seal)
        return envelope, record

    def _summary_after(self, envelope: Envelope) -> RunSummary | None:
        if not envelope.event.traits.changes_summary:
            return None
        return summarise(self._summary, envelope)

    def _advance(self, envelope: Envelope, record: Record, summary: RunSummary | None) -> None:
        """Account for an event that is stored."""
        event = envelope.event
        self._chain.add(record)
        self._next_seq += 1
        if isinstance(event, TokenSampled):
            self._unspelled.add(event.token_id)
            self._unspelled.update(event.top_ids)
        elif isinstance(event, SystemPromptCached | MessageAdded):
            self._unspelled.update(event.ids)
        elif isinstance(event, CacheDecided):
            diverging = (event.divergence_cached_id, event.divergence_prompt_id)
            self._unspelled.update(each for each in diverging if each is not None)
        elif isinstance(event, TokensSpelled):
            self._spelled.update(map(int, event.texts))
            self._unspelled.clear()
        elif isinstance(event, RunStarted):
            self._redacted = event.redacted
        elif isinstance(event, TurnStarted):
            self._last_turn = event.turn
            self._unspelled.update(event.added_ids)
        elif isinstance(event, RunForked):
            self._last_turn = event.at_turn - 1
        self._summary = summary or self._summary
        self.ended = event.traits.ends_run

    def put_blob(self, sha256: str, payload: bytes) -> None:
        """Store a payload under its sha256. Call it before the event that refers to it."""
        if self._redaction is not None:
            sha256, payload = self._redaction.redact_blob(sha256, payload)
        self._log.put_blob(sha256, payload)

    def put_weights_manifest(self, sha256: str, payload: bytes) -> None:
        """Store the weights manifest of the model. Call it before `RunStarted`.

        A redacted run stores none: it cannot be replayed, and the names of tensors are text.
        """
        if self._redaction is None:
            self._log.put_blob(sha256, payload)

    def finish(self, reason: str = "", *, signal: str = "") -> None:
        """End the run with its totals if it is active and has lost no event."""
        if self.is_active and self._lost is None and self._summary is not None:
            self.record(
                RunFinished(
                    turns=self._summary.turns,
                    prompt_tokens=self._summary.prompt_tokens,
                    reused_tokens=self._summary.reused_tokens,
                    computed_tokens=self._summary.prompt_tokens - self._summary.reused_tokens,
                    generated_tokens=self._summary.generated_tokens,
                    reason=reason,
                    signal=signal,
                )
            )

    def fail(self, error: BaseException) -> None:
        """End the run with an exception if it is active."""
        if self.is_active:
            text = traceback_text(error)
            self.record(RunFailed(error=type(error).__name__, message=str(error), traceback=text))

    def close(self, message: str) -> None:
        """End a run that its process has left, with `RunFailed`. For a recorder of `resume`."""
        self._must_resume = False
        self.record(RunFailed(error=CLOSED, message=message, traceback=""))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            self.finish()
            return
        try:
            interrupted = isinstance(error, KeyboardInterrupt | Terminated)
            # Where an interrupt came while an event was stored, that event may be lost.
            if interrupted and self._lost is None:
                self.finish(INTERRUPTED, signal=getattr(error, "signal", ""))
            else:
                self.fail(error)
        except TokentapeError as another:
            # The user must see the first error.
            error.add_note(f"and the end of run {self.run_id} was not recorded: {another}")


def _new_id(at_us: int, random_bytes: bytes) -> str:
    check_time(at_us)
    return uuid7(at_us, random_bytes)
