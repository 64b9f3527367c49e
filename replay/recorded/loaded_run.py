"""A run, or some of its turns, read and decoded once."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from tokentape.recorder import Envelope, Record, Recording, RecordingError
from tokentape.recorder.envelope import number_turns
from tokentape.recorder.escapes import visible
from tokentape.recorder.events import (
    MessageAdded,
    RunFailed,
    RunFinished,
    RunForked,
    RunStarted,
    SystemPromptCached,
    TokenSampled,
    ToolCalled,
    ToolReturned,
    TurnStarted,
    ids_sha256,
)
from tokentape.recorder.given_recording import check_recording
from tokentape.recorder.projections import Message, Turn, iterate_messages, iterate_turns
from tokentape.recorder.record import RecordFilter
from tokentape.recorder.seals import SealCheck, SealReport
from tokentape.recorder.selected_turns import SelectedEvents, Stretch
from tokentape.replay.results.errors import NothingToReplayError

ToolEvent = ToolCalled | ToolReturned | MessageAdded


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedRun:
    """Everything that replays need of a run, in memory, so that each event is read once."""

    recording: Recording
    """Where the run and its blobs are stored; its events are not read again."""
    started: RunStarted
    turns: tuple[Turn, ...]
    """One entry a round: a turn in which the model called tools has several."""
    envelopes: tuple[Envelope, ...]
    """Every event in order except `TokenSampled`, which `turns` hold; of a fork the shared ones,
    too. Where only some turns were read, of earlier turns those that make prompts, and tool
    calls."""
    seals: SealReport | None
    """The check of the seals of the run itself, or of the turns that were read; None where it has
    none."""
    only_turns: frozenset[int] | None = None
    """The turns that were read; None for all."""

    @property
    def run_id(self) -> str:
        return self.recording.run_id

    @property
    def own_envelopes(self) -> tuple[Envelope, ...]:
        """The events that the run does not share with a parent, without `TokenSampled`."""
        return tuple(each for each in self.envelopes if each.run_id == self.run_id)

    @property
    def forked(self) -> RunForked | None:
        """The event that names the parent of a fork; None for other runs."""
        own = (each.event for each in self.own_envelopes)
        return next((event for event in own if isinstance(event, RunForked)), None)

    def ended(self) -> RunFinished | RunFailed | None:
        """Return the event that ended the run, or None if it has not ended or was resumed."""
        if self.only_turns is not None:
            return self.recording.ended()
        last = self.envelopes[-1].event
        return last if isinstance(last, RunFinished | RunFailed) else None

    @property
    def status_text(self) -> str:
        """`running` if no event ends the run, else its status, with the error if it failed."""
        ended = self.ended()
        return "running" if ended is None else ended.status_text

    @property
    def unfinished_note(self) -> str:
        """The status for the end of a sentence about the run; empty for one that finished."""
        status = self.status_text
        return "" if status == "finished" else f" (status: {visible(status)})"

    @property
    def turns_of_model(self) -> tuple[Turn, ...]:
        """The rounds that the model of the run generated.

        A fork onto another model shares rounds that are not among them.
        """
        forked = self.forked
        if forked is None:
            return self.turns
        others = self.recording.runs_of_other_models()
        if not others:
            return self.turns
        numbers = {turn.number for turn in self.turns}
        owners = [
            each.run_id
            for each in self.envelopes
            if isinstance(each.event, TurnStarted) and each.event.turn in numbers
        ]
        rounds = zip(self.turns, owners, strict=True)
        return tuple(turn for turn, owner in rounds if owner not in others)

    def messages(self) -> tuple[Message, ...]:
        """Return every message of the run; the reply of a cut-off turn is not among them."""
        return tuple(iterate_messages(self.envelopes))

    def tool_events(self) -> Iterator[tuple[int, ToolEvent]]:
        """Yield tool calls, their results and the messages with results, each with its turn."""
        for envelope, turn in number_turns(self.envelopes):
            event = envelope.event
            if turn is None or not isinstance(event, ToolEvent):
                continue
            if not isinstance(event, MessageAdded) or event.tool_call_id is not None:
                yield turn, event

    def broken_prompt_hashes(self) -> list[str]:
        """Return a sentence for each system prompt whose ids do not match their sha256."""
        return [
            f"the ids of the system prompt (event {envelope.seq}) do not have their recorded sha256"
            for envelope in self.envelopes
            if isinstance(envelope.event, SystemPromptCached)
            and ids_sha256(envelope.event.ids) != envelope.event.sha256
        ]


def check_has_tokens(run: LoadedRun) -> None:
    """Raise NothingToReplayError for an imported conversation, which has no tokens."""
    imported = None if run.turns else run.recording.imported()
    if imported is not None:
        raise NothingToReplayError(f"run {run.run_id} {imported.without_tokens}")


def load_run(run: Recording | LoadedRun, turns: Sequence[int] | None = None) -> LoadedRun:
    """Read a recording, or some turns of it, into memory; return a loaded run unchanged.

    A turn comes with its whole prompt. Raise RecordingError if events are damaged or contradict
    each other, and TypeError for a value that is no recording.
    """
    if isinstance(run, LoadedRun):
        return run
    check_recording(run)
    if turns is not None:
        return _load_turns(run, turns)
    seals = SealCheck(run.run_id)
    envelopes: list[Envelope] = []

    def records() -> Iterator[Record]:
        for record in run.records():
            seals.add(record)
            yield record

    def events() -> Iterator[Envelope]:
        for envelope in replace(run, read=records).events():
            if not isinstance(envelope.event, TokenSampled):
                envelopes.append(envelope)
            yield envelope

    rounds = tuple(iterate_turns(events()))
    own = (each.event for each in envelopes if each.run_id == run.run_id)
    started = next((event for event in own if isinstance(event, RunStarted)), None)
    if started is None:
        raise RecordingError(f"run {run.run_id} has no RunStarted")
    return LoadedRun(
        recording=run,
        started=started,
        turns=rounds,
        envelopes=tuple(envelopes),
        seals=seals.report() if seals.has_seals else None,
    )


def _load_turns(run: Recording, turns: Sequence[int]) -> LoadedRun:
    own: dict[int, Record] = {}

    def select(chosen: RecordFilter) -> Iterator[Record]:
        for record in run.selected(chosen):
            own[record.seq] = record
            yield record

    kinds = (ToolCalled.__name__, ToolReturned.__name__)
    selected = SelectedEvents.read(replace(run, select=select), turns, more_kinds=kinds)
    return LoadedRun(
        recording=run,
        started=run.started(),
        turns=tuple(each.turn for each in selected.rebuilt()),
        envelopes=tuple(
            each for each in selected.envelopes if not isinstance(each.event, TokenSampled)
        ),
        seals=_seals_of(run.run_id, selected.stretches, own),
        only_turns=selected.turns,
    )


def _seals_of(
    run_id: str, stretches: Sequence[Stretch], records: Mapping[int, Record]
) -> SealReport | None:
    """Return the check of the stretches of the run itself, up to the first fault."""
    report: SealReport | None = None
    for each in stretches:
        if each.run_id != run_id or (each.after_seal is None and each.after_seq >= 0):
            continue
        seals = SealCheck(run_id, after_seq=each.after_seq, after_seal=each.after_seal)
        for seq in sorted(seq for seq, record in records.items() if each.chosen.selects(record)):
            seals.add(records[seq])
        report = seals.report() if seals.has_seals else report
        if seals.fault:
            break
    return report
