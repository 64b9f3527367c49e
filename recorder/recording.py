"""A recorded run, read from any store."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

from tokentape.recorder.codec import decode
from tokentape.recorder.envelope import Envelope
from tokentape.recorder.errors import RecordingError
from tokentape.recorder.events import (
    EVENT_CLASSES,
    TOKEN_KIND,
    BelongsTo,
    ConversationImported,
    Event,
    RunFailed,
    RunFinished,
    RunForked,
    RunResumed,
    RunStarted,
    TokenSampled,
)
from tokentape.recorder.projections import Message, Turn, iterate_messages, iterate_turns
from tokentape.recorder.record import Record, RecordFilter, SampledIds
from tokentape.recorder.short_forms import html_facts, html_or_fault, html_table, short_repr


@dataclass(frozen=True, slots=True, repr=False)
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
    select: Callable[[RecordFilter], Iterator[Record]] | None = None
    """Yields the records that a filter selects and reads no others; None if only the whole run can
    be read."""
    read_sampled_ids: Callable[[int, int | None], SampledIds] | None = None
    """Returns the ids of the tokens after one `seq` and up to another, None for the end of the run;
    None as for `select`."""
    read_tokens: Callable[[], Any] | None = None
    """Returns all of the run's own tokens as an Arrow table, with the columns of
    `tokentape.store.arrow.TOKENS`; None if they can be read only as events."""

    def __repr__(self) -> str:
        return short_repr(self, self.run_id, f"in {self.where}" if self.where else "")

    def _repr_html_(self) -> str:
        return html_or_fault(self, self._facts)

    def _facts(self) -> str:
        started, ended = self.started(), self.ended()
        messages = [
            (each.role, each.content) for each in islice(iterate_messages(self.events()), 21)
        ]
        facts = html_facts(
            f"Run {self.run_id}",
            [
                ("name", started.name),
                ("model", started.model),
                ("seed", started.seed),
                ("status", "running" if ended is None else ended.status_text),
                ("store", self.where),
                ("turns", self.newest_turn()),
            ],
        )
        return facts + html_table("", ("role", "content"), messages, end="or more messages")

    def records(self) -> Iterator[Record]:
        """Yield the run's own events in order, neither decoded nor checked."""
        return self.read()

    def selected(self, chosen: RecordFilter) -> Iterator[Record]:
        """Yield the run's own records that a filter selects, neither decoded nor checked."""
        return chosen.of(self.read()) if self.select is None else self.select(chosen)

    def sampled_ids(self, after_seq: int, last_seq: int | None) -> SampledIds:
        """Return the ids of the run's own tokens after one `seq` and up to another."""
        if self.read_sampled_ids is not None:
            return self.read_sampled_ids(after_seq, last_seq)
        kinds = frozenset((TOKEN_KIND,))
        chosen = RecordFilter(kinds=kinds, after_seq=after_seq, last_seq=last_seq)
        tokens = [decode(self.run_id, each) for each in self.selected(chosen)]
        sampled = [each.event for each in tokens if isinstance(each.event, TokenSampled)]
        return SampledIds([each.seq for each in tokens], [each.token_id for each in sampled])

    def selected_events(
        self, chosen: RecordFilter, *, of_run: str | None = None
    ) -> Iterator[Envelope]:
        """Yield the events that a filter selects, in the order of `events`.

        In a fork the filter applies to each run of the lineage separately; `of_run` is the id of
        the only one to read. A missing event between two selected ones is not noticed.
        """
        for run, after_seq, last_seq in self.stretches():
            if of_run not in (None, run.run_id):
                continue
            if last_seq is not None:
                last_seq = last_seq if chosen.last_seq is None else min(chosen.last_seq, last_seq)
            within = replace(
                chosen,
                after_seq=max(chosen.after_seq, after_seq),
                last_seq=chosen.last_seq if last_seq is None else last_seq,
            )
            for envelope in run._decoded(within):
                if run is self or envelope.event.traits.belongs_to is not BelongsTo.RUN:
                    yield envelope

    def stretches(self) -> Iterator[tuple["Recording", int, int | None]]:
        """Yield the runs whose own events make up this one, in the order of `events`.

        Each comes with the `seq` after which its events begin, and the last one that belongs here.
        """
        forked = self.forked()
        if forked is None:
            yield self, -1, None
            return
        yield self, -1, 1
        shared: list[tuple[Recording, int]] = []
        for run in self.lineage():
            run._check_has(forked.parent_seq, self.run_id)
            shared.append((run, forked.parent_seq))
            forked = run.forked() or forked
        # `lineage` begins with the parent, and the events with those of the oldest ancestor.
        for run, last_seq in reversed(shared):
            yield run, -1, last_seq
        yield self, 1, None

    def _decoded(self, chosen: RecordFilter) -> Iterator[Envelope]:
        return (decode(self.run_id, record) for record in self.selected(chosen))

    def _check_has(self, seq: int, fork_id: str) -> None:
        """Raise RecordingError if the run, a parent of a fork, has no event of that `seq`."""
        if next(self.selected(RecordFilter(after_seq=seq - 1, last_seq=seq)), None) is None:
            raise RecordingError(
                f"run {fork_id} shares {seq + 1} events of run {self.run_id}, which has fewer"
            )

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
        event = self._second(RunForked.__name__)
        return event if isinstance(event, RunForked) else None

    def imported(self) -> ConversationImported | None:
        """Return the origin of an imported conversation, or None for a run with tokens."""
        event = self._second(ConversationImported.__name__)
        return event if isinstance(event, ConversationImported) else None

    def _second(self, kind: str) -> Event | None:
        """Return the second event of the run, if it is of that kind."""
        second = next(self.selected(RecordFilter(after_seq=0, last_seq=1)), None)
        if second is None or second.kind != kind:
            return None
        return decode(self.run_id, second).event

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

    def runs_of_other_models(self) -> frozenset[str]:
        """Return the ids of the ancestors whose shared turns another model generated.

        A fork onto another model names in `RunForked.other_model` what differs.
        """
        found: list[str] = []
        differs = False
        for run in (self, *self.lineage()):
            if differs:
                found.append(run.run_id)
            forked = run.forked()
            differs = differs or (forked is not None and bool(forked.other_model))
        return frozenset(found)

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

    def newest_turn(self) -> int:
        """Return the number of the last turn that has an event; zero if none has."""
        newest = RecordFilter(kinds=_KINDS_OF_TURNS, newest=1)
        for run, _, last_seq in reversed(list(self.stretches())):
            for record in run.selected(replace(newest, last_seq=last_seq)):
                return record.turn or 0
        return 0

    def messages(self) -> list[Message]:
        """Return the messages of the conversation; see `iterate_messages`."""
        return list(iterate_messages(self.events()))

    def conversation(self) -> list[dict[str, str]]:
        """Return the messages as chat templates expect them: `role` and `content`."""
        return [{"role": each.role, "content": each.content} for each in self.messages()]

    def started(self) -> RunStarted:
        """Return the first event of the run. Raise RecordingError if it is missing."""
        for record in self.selected(RecordFilter(last_seq=0)):
            event = decode(self.run_id, record).event
            if isinstance(event, RunStarted):
                return event
        raise RecordingError(f"run {self.run_id} has no RunStarted")

    def ended(self) -> RunFinished | RunFailed | None:
        """Return the event that ended the run, or None if it has not ended or was resumed.

        Only the last event is read.
        """
        for record in self.selected(RecordFilter(newest=1)):
            # Any other event is not decoded: its damage says nothing about the end.
            if record.kind in (RunFinished.__name__, RunFailed.__name__):
                event = decode(self.run_id, record).event
                assert isinstance(event, RunFinished | RunFailed)
                return event
        return None


_KINDS_OF_TURNS = frozenset(
    kind
    for kind, cls in EVENT_CLASSES.items()
    if cls.traits.belongs_to is not BelongsTo.RUN and cls not in (RunResumed, TokenSampled)
)
