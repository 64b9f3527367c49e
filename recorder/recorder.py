"""The recorder gives each event its place in a run and hands it to a log, at once."""

import os
import traceback
from collections.abc import Callable
from dataclasses import replace
from types import TracebackType
from typing import Protocol, Self

from tokentape.recorder.clock import now_us
from tokentape.recorder.codec import decode, encode
from tokentape.recorder.envelope import Envelope, TurnCounter
from tokentape.recorder.errors import TokentapeError
from tokentape.recorder.events import (
    Event,
    RunFailed,
    RunFinished,
    RunForked,
    RunResumed,
    RunStarted,
    ToolReturned,
    TurnFinished,
    TurnStarted,
)
from tokentape.recorder.events.run import INTERRUPTED
from tokentape.recorder.projections.summary import RunSummary, summarise
from tokentape.recorder.record import Record
from tokentape.recorder.recording import Recording
from tokentape.recorder.redaction import Redaction, Redactor
from tokentape.recorder.run_id import uuid7
from tokentape.recorder.seals import SEALED, SealChain

# After these a loss of power loses nothing; after any other event the death of the process does.
DURABLE = (
    RunStarted,
    RunForked,
    RunResumed,
    RunFinished,
    RunFailed,
    TurnStarted,
    TurnFinished,
    ToolReturned,
)


class EventLog(Protocol):
    """What a store offers to a recorder."""

    def append(self, envelope: Envelope, *, durable: bool) -> None:
        """Keep the event before returning; with `durable`, through a loss of power too."""

    def put_blob(self, sha256: str, payload: bytes) -> None:
        """Keep a payload under its hexadecimal sha256; one that is there already is left alone."""


class Recorder:
    """Writes one run, in order.

    As a context manager it ends the run: `RunFinished` with the totals, also when the block is
    interrupted by its user, or `RunFailed` when it raises something else. A `redactor` rewrites
    every text before it is written: see `tokentape.recorder.redaction`.
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
        self.run_id = run_id or uuid7(clock_us(), random_bytes(10))
        self._log = log
        self._clock_us = clock_us
        self._redaction = None if redactor is None else Redaction(redactor)
        self._turns = TurnCounter()
        self._chain = SealChain(self.run_id)
        self._next_seq = 0
        self._last_turn = 0
        self._lost: str | None = None
        self._owner: object | None = None
        self._summary: RunSummary | None = None
        self._resumes = False
        self.ended = False

    @classmethod
    def behind(
        cls, log: EventLog, recording: Recording, *, clock_us: Callable[[], int] = now_us
    ) -> "Recorder":
        """A recorder that goes on with a run where its last event stands: `RunResumed` comes first.

        Whoever still records the run can add nothing to it from then on: a run has one writer.
        """
        recorder = cls(log, run_id=recording.run_id, clock_us=clock_us)
        for record in recording.records():
            envelope = decode(recording.run_id, record)
            recorder._turns.turn_of(envelope.event)
            recorder._add(envelope, record)
        recorder.ended, recorder._resumes = False, True
        return recorder

    @property
    def started(self) -> bool:
        return self._next_seq > 0

    @property
    def last_turn(self) -> int:
        """The number of the last turn that began; zero before the first."""
        return self._last_turn

    def claim(self, owner: object) -> None:
        """Say who records turns here. Raises TokentapeError for a second one.

        A run is one stream of ids: two that point into it would garble each other's.
        """
        if self._owner is not None and self._owner is not owner:
            raise TokentapeError(
                f"run {self.run_id} is recorded by another generator already: make a recorder "
                "for each"
            )
        self._owner = owner

    def record(self, event: Event) -> Envelope:
        """Append the event; when this returns it is kept.

        After an event that could not be kept, only `RunFailed` is taken: what comes after a hole
        would be rebuilt as something that never was.
        """
        if self.ended:
            raise TokentapeError(f"run {self.run_id} has ended; nothing can be added to it")
        if self._lost is not None and not isinstance(event, RunFailed):
            raise TokentapeError(
                f"run {self.run_id} lost an event ({self._lost}); nothing can be added to it"
            )
        if isinstance(event, RunStarted) == self.started:
            raise TokentapeError("a run has one RunStarted, and it comes first")
        if isinstance(event, RunResumed) != self._resumes:
            raise TokentapeError("a run that goes on in another process says so first, and once")
        try:
            if self._redaction is not None:
                event = self._redaction.redacted(event)
            envelope, record = self._placed(event)
            self._log.append(envelope, durable=isinstance(event, DURABLE))
        except BaseException as error:
            self._lost = f"{type(error).__name__}: {error}"
            raise
        self._add(envelope, record)
        self._resumes = False
        return envelope

    def _add(self, envelope: Envelope, record: Record) -> None:
        event = envelope.event
        self._chain.add(record)
        self._next_seq += 1
        if isinstance(event, TurnStarted):
            self._last_turn = event.turn
        elif isinstance(event, RunForked):
            self._last_turn = event.at_turn - 1
        self._summary = summarise(self._summary, envelope)
        self.ended = isinstance(event, RunFinished | RunFailed)

    def _placed(self, event: Event) -> tuple[Envelope, Record]:
        """The event in its place, sealed where it ends a turn or the run."""
        turn = self._turns.turn_of(event)
        envelope = Envelope(self.run_id, self._next_seq, self._clock_us(), event, turn)
        record = encode(envelope)
        if isinstance(event, SEALED):
            seal = self._chain.seal_of(record)
            envelope, record = replace(envelope, seal=seal), replace(record, seal=seal)
        return envelope, record

    def put_blob(self, sha256: str, payload: bytes) -> None:
        """Keep what a tool returned in full, before the `ToolReturned` that names its sha256."""
        if self._redaction is not None:
            sha256, payload = self._redaction.redacted_blob(sha256, payload)
        self._log.put_blob(sha256, payload)

    def put_weights_list(self, sha256: str, payload: bytes) -> None:
        """Keep the list of the model's tensors, before the `RunStarted` that names its sha256.

        A redacted run has none: it cannot be replayed, and names of tensors are somebody's words.
        """
        if self._redaction is None:
            self._log.put_blob(sha256, payload)

    @property
    def goes_on(self) -> bool:
        """Whether the run has begun, or was taken up again, and has not ended."""
        return self.started and not self.ended and not self._resumes

    def finish(self, reason: str = "") -> None:
        """End the run with its totals, unless it never started or has ended."""
        if self.goes_on and self._lost is None and self._summary is not None:
            self.record(
                RunFinished(
                    turns=self._summary.turns,
                    prompt_tokens=self._summary.prompt_tokens,
                    reused_tokens=self._summary.reused_tokens,
                    computed_tokens=self._summary.prompt_tokens - self._summary.reused_tokens,
                    generated_tokens=self._summary.generated_tokens,
                    reason=reason,
                )
            )

    def fail(self, error: BaseException) -> None:
        """End the run with an error, unless it never started or has ended."""
        if self.goes_on:
            text = "".join(traceback.format_exception(error))
            self.record(RunFailed(error=type(error).__name__, message=str(error), traceback=text))

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
            if isinstance(error, KeyboardInterrupt):
                self.finish(INTERRUPTED)
            else:
                self.fail(error)
        except TokentapeError as another:
            # What went wrong first is what its user must see.
            error.add_note(f"and the end of run {self.run_id} was not recorded: {another}")
