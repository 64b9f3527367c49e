"""A recorded run, read from any store."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice

from tokentape.recorder.codec import decode
from tokentape.recorder.envelope import Envelope
from tokentape.recorder.errors import RecordingError
from tokentape.recorder.events import BelongsTo, RunForked, RunStarted
from tokentape.recorder.projections import Message, Turn, iterate_messages, iterate_turns
from tokentape.recorder.record import Record


@dataclass(frozen=True, slots=True)
class Recording:
    """A run in a store. Each call reads the run again; nothing is held in memory.

    Every method raises RecordingError if the events are damaged or contradict each other.
    """

    run_id: str
    read: Callable[[], Iterator[Record]]
    """Yields the records of the run in order."""
    where: str = ""
    """The store as the command line names it; empty if it has no such name."""
    read_blob: Callable[[str], bytes] | None = None
    """Returns the payload under a sha256; None if no payloads can be read."""
    find: Callable[[str], "Recording"] | None = None
    """Returns the recording of another run: a fork reads the events of its parent."""

    def records(self) -> Iterator[Record]:
        """Yield the run's own events in order, neither decoded nor checked."""
        return self.read()

    def events(self) -> Iterator[Envelope]:
        """Yield every event in order, in its envelope.

        In a fork, `RunForked` is followed by the events that it shares, in the envelopes of the
        parent. Those that begin, fork and end the parent are left out.
        """
        return self._events(())

    def _events(self, descendants: tuple[str, ...]) -> Iterator[Envelope]:
        """Yield as `events`. `descendants` are the forks of this run, the youngest first."""
        for envelope in self.own_events():
            yield envelope
            if isinstance(envelope.event, RunForked):
                if envelope.seq != 1:
                    raise RecordingError(
                        f"run {self.run_id} has a RunForked as event {envelope.seq}, and only "
                        "event 1 can be one"
                    )
                yield from self._shared_events(envelope.event, (*descendants, self.run_id))

    def forked(self) -> RunForked | None:
        """Return the `RunForked` of a fork, or None for any other run."""
        second = next(islice(self.read(), 1, None), None)
        if second is None or second.kind != RunForked.__name__:
            return None
        event = decode(self.run_id, second).event
        assert isinstance(event, RunForked)
        return event

    def parent(self, forked: RunForked) -> "Recording":
        """Return the recording of the parent. Raise RecordingError if it cannot be found."""
        parent_run_id = forked.parent_run_id
        if self.find is None:
            raise RecordingError(
                f"run {self.run_id} was forked from run {parent_run_id}, which cannot be read here"
            )
        parent = self.find(parent_run_id)
        if parent.run_id != parent_run_id:
            raise RecordingError(
                f"run {self.run_id} does not name its parent by a full run id: {parent_run_id}"
            )
        return parent

    def lineage(self) -> list["Recording"]:
        """Return the runs that it descends from, its parent first. Raise as `parent`."""
        found: list[Recording] = []
        youngest = self
        while (forked := youngest.forked()) is not None:
            youngest = youngest.parent(forked)
            if youngest.run_id in (self.run_id, *(each.run_id for each in found)):
                raise RecordingError(f"run {self.run_id} is recorded as a fork of itself")
            found.append(youngest)
        return found

    def _shared_events(self, forked: RunForked, runs: tuple[str, ...]) -> Iterator[Envelope]:
        """Yield the events of the parent that the run shares.

        `runs` are this run and its descendants.
        """
        parent, last = self.parent(forked), None
        if parent.run_id in runs:
            raise RecordingError(f"run {runs[0]} is recorded as a fork of itself")
        for envelope in parent._events(runs):
            own = envelope.run_id == parent.run_id
            if own and envelope.seq > forked.parent_seq:
                break
            last = envelope.seq if own else last
            if envelope.event.traits.belongs_to is not BelongsTo.RUN:
                yield envelope
        if last != forked.parent_seq:
            raise RecordingError(
                f"run {self.run_id} shares {forked.parent_seq + 1} events of run "
                f"{parent.run_id}, which has fewer"
            )

    def own_events(self) -> Iterator[Envelope]:
        """Yield the run's own events in order, in their envelopes."""
        for expected_seq, record in enumerate(self.read()):
            if record.seq != expected_seq:
                raise RecordingError(
                    f"run {self.run_id} has event {record.seq} where {expected_seq} is due: "
                    "an event is missing"
                )
            yield decode(self.run_id, record)

    def turns(self) -> list[Turn]:
        """Return the rounds of all turns; see `iterate_turns`."""
        return list(iterate_turns(self.events()))

    def messages(self) -> list[Message]:
        """Return the messages of the conversation; see `iterate_messages`."""
        return list(iterate_messages(self.events()))

    def conversation(self) -> list[dict[str, str]]:
        """Return the messages as chat templates expect them: `role` and `content`."""
        return [{"role": each.role, "content": each.content} for each in self.messages()]

    def started(self) -> RunStarted:
        """Return the first event of the run. Raise RecordingError if it is missing."""
        for envelope in self.own_events():
            if isinstance(envelope.event, RunStarted):
                return envelope.event
        raise RecordingError(f"run {self.run_id} has no RunStarted")
