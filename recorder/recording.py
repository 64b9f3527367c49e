"""A recorded run, wherever it is kept."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from recorder.codec import decode
from recorder.envelope import Envelope
from recorder.errors import RecordingError
from recorder.events import RunStarted
from recorder.projections import Message, Turn, iterate_messages, iterate_turns
from recorder.record import Record


@dataclass(frozen=True, slots=True)
class Recording:
    """Reads a run from its store each time it is asked; nothing is kept in memory.

    `where` is the store as the command line is given it, empty where it cannot be. `read_blob`
    gives the payload under a sha256, None where no payloads are at hand.

    Every method raises RecordingError where the events are damaged or contradict each other.
    """

    run_id: str
    read: Callable[[], Iterator[Record]]
    where: str = ""
    read_blob: Callable[[str], bytes] | None = None

    def records(self) -> Iterator[Record]:
        """Every event in order as it is kept, neither decoded nor checked."""
        return self.read()

    def events(self) -> Iterator[Envelope]:
        """Every event in order, with its envelope."""
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
        for envelope in self.events():
            if isinstance(envelope.event, RunStarted):
                return envelope.event
        raise RecordingError(f"run {self.run_id} has no RunStarted")
