"""A recorded run, wherever it is kept."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice

from tokentape.recorder.codec import decode
from tokentape.recorder.envelope import Envelope
from tokentape.recorder.errors import RecordingError
from tokentape.recorder.events import RunFailed, RunFinished, RunForked, RunStarted
from tokentape.recorder.projections import Message, Turn, iterate_messages, iterate_turns
from tokentape.recorder.record import Record


@dataclass(frozen=True, slots=True)
class Recording:
    """Reads a run from its store each time it is asked; nothing is kept in memory.

    `where` is the store as the command line is given it, empty where it cannot be. `read_blob`
    gives the payload under a sha256, None where no payloads are at hand. `find` gives the recording
    of another run, for a fork to read what it shares with its parent.

    Every method raises RecordingError where the events are damaged or contradict each other.
    """

    run_id: str
    read: Callable[[], Iterator[Record]]
    where: str = ""
    read_blob: Callable[[str], bytes] | None = None
    find: Callable[[str], "Recording"] | None = None

    def records(self) -> Iterator[Record]:
        """Every event of the run's own in order as it is kept, neither decoded nor checked."""
        return self.read()

    def events(self) -> Iterator[Envelope]:
        """Every event in order, with its envelope.

        Behind the `RunForked` of a fork come those that it shares, with the envelopes that they
        have in its parent; what begins and ends the parent is not among them.
        """
        return self._events(())

    def _events(self, descendants: tuple[str, ...]) -> Iterator[Envelope]:
        """`descendants` are the runs that were forked from this one, the youngest first."""
        for envelope in self.own_events():
            yield envelope
            if isinstance(envelope.event, RunForked):
                if envelope.seq != 1:
                    raise RecordingError(
                        f"run {self.run_id} says with event {envelope.seq} that it was forked, and "
                        "only its second one can"
                    )
                yield from self._shared_events(envelope.event, (*descendants, self.run_id))

    def forked(self) -> RunForked | None:
        """How the run begins where another one stood; None where it does not."""
        second = next(islice(self.read(), 1, None), None)
        if second is None or second.kind != RunForked.__name__:
            return None
        event = decode(self.run_id, second).event
        assert isinstance(event, RunForked)
        return event

    def parent(self, forked: RunForked) -> "Recording":
        """The recording of the run that it was forked from. Raises RecordingError without one."""
        parent_run_id = forked.parent_run_id
        if self.find is None:
            raise RecordingError(
                f"run {self.run_id} was forked from run {parent_run_id}, which is not at hand"
            )
        parent = self.find(parent_run_id)
        if parent.run_id != parent_run_id:
            raise RecordingError(f"run {self.run_id} names no whole run as its parent")
        return parent

    def lineage(self) -> list["Recording"]:
        """The runs that it was forked from, its parent first. Raises RecordingError as `parent`."""
        found: list[Recording] = []
        youngest = self
        while (forked := youngest.forked()) is not None:
            youngest = youngest.parent(forked)
            if youngest.run_id in (self.run_id, *(each.run_id for each in found)):
                raise RecordingError(f"run {self.run_id} says that it was forked from itself")
            found.append(youngest)
        return found

    def _shared_events(self, forked: RunForked, runs: tuple[str, ...]) -> Iterator[Envelope]:
        """The events of its parent that the run shares; `runs` are this one and its descendants."""
        parent, last = self.parent(forked), None
        if parent.run_id in runs:
            raise RecordingError(f"run {runs[0]} says that it was forked from itself")
        for envelope in parent._events(runs):
            own = envelope.run_id == parent.run_id
            if own and envelope.seq > forked.parent_seq:
                break
            last = envelope.seq if own else last
            if not isinstance(envelope.event, _OF_ITS_OWN):
                yield envelope
        if last != forked.parent_seq:
            raise RecordingError(
                f"run {self.run_id} shares {forked.parent_seq + 1} events of run "
                f"{parent.run_id}, which has fewer"
            )

    def own_events(self) -> Iterator[Envelope]:
        """Every event of the run's own in order, with its envelope."""
        for expected_seq, record in enumerate(self.read()):
            if record.seq != expected_seq:
                raise RecordingError(
                    f"run {self.run_id} has event {record.seq} where {expected_seq} is due: "
                    "an event is missing"
                )
            yield decode(self.run_id, record)

    def turns(self) -> list[Turn]:
        return list(iterate_turns(self.events()))

    def messages(self) -> list[Message]:
        return list(iterate_messages(self.events()))

    def conversation(self) -> list[dict[str, str]]:
        """The messages as chat templates take them: `role` and `content`."""
        return [{"role": each.role, "content": each.content} for each in self.messages()]

    def started(self) -> RunStarted:
        for envelope in self.own_events():
            if isinstance(envelope.event, RunStarted):
                return envelope.event
        raise RecordingError(f"run {self.run_id} has no RunStarted")


_OF_ITS_OWN = (RunStarted, RunForked, RunFinished, RunFailed)
