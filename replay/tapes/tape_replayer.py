"""Replay of the runs in a tape or store, and the update of a tape that no longer passes.

Imports torch only when a replay needs a model.
"""

import re
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from tokentape.recorder import Recording, RecordingError, TokentapeError
from tokentape.recorder.atomic_write import atomic_write
from tokentape.recorder.projections import join_rounds
from tokentape.replay.rebuild import rebuild
from tokentape.replay.recorded.loaded_run import LoadedRun, load_run
from tokentape.replay.results.errors import ReplayError
from tokentape.replay.tapes.outcomes import (
    RunOutcome,
    TurnOutcome,
    failed_outcome,
    rebuilt_outcome,
    report_outcome,
)
from tokentape.replay.tapes.recorded_models import RecordedModels
from tokentape.store import (
    DatabaseStore,
    ParquetStore,
    StoreError,
    check,
    database_url,
    open_store,
    pack,
)
from tokentape.store.source import with_parents

if TYPE_CHECKING:
    from tokentape.generation import LoadedModel
    from tokentape.replay.options import CheckKeywords
    from tokentape.replay.results.report import Report

OpenedStore = DatabaseStore | ParquetStore
Mode = Literal["rebuild", "verify", "retrace", "regenerate"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayRequest:
    """Which runs and turns of a tape to replay, and how."""

    tape: str
    """Path of a tape, or of a folder or database."""
    mode: Mode
    run: int | None = None
    """Index of the run in the tape, the oldest at zero; all runs for None."""
    turns: Sequence[int] | None = None
    model: str = ""
    """Name of the model; the recorded one if empty."""
    floor: str = ""
    """File of the noise floor; if empty the built-in one, or else the one stored with the run."""
    ignore: Sequence[str] = ()
    """Fingerprints that may differ."""
    allow_drift: bool = False
    """Whether drifted turns pass."""
    update: bool = False
    """Whether to record a tape that does not pass again, and replace it."""
    html: str = ""
    """A folder for a page about each run that is replayed; empty for none."""

    def page(self, run: int) -> Path:
        """Return the file of the page about a run."""
        parts = [*Path(self.tape).parts[-3:-1], Path(self.tape).name]
        name = "-".join(each for each in parts if re.fullmatch(r"[\w.-]*\w[\w.-]*", each))
        name += f".run-{run + 1}" if run else ""
        name += f".turn-{self.turns[0]}" if self.turns else ""
        return Path(self.html) / f"{name}.html"


@dataclass(frozen=True, slots=True, kw_only=True)
class TapeOutcome:
    """The outcomes of the runs of a tape."""

    runs: dict[int, RunOutcome]
    """By index in the tape."""
    updated: str = ""
    """A sentence if the tape was recorded again and replaced."""

    @property
    def passes(self) -> bool:
        return all(run.passes for run in self.runs.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class TapeRun:
    """A run in a tape, and its turns that have tokens."""

    name: str
    turns: tuple[int, ...]


def list_runs(tape: str) -> list[TapeRun]:
    """Return the runs in a tape, the oldest first. Needs no model, and imports no torch."""
    with open_store(tape, must_exist=True) as store:
        runs = []
        for summary in store.summaries():
            turns = join_rounds(store.recording(summary.run_id).turns())
            numbers = tuple(turn.number for turn in turns if turn.tokens)
            runs.append(TapeRun(name=summary.name, turns=numbers))
    return runs


class TapeReplayer:
    """Replays tapes one after the other; keeps the last model in memory."""

    def __init__(self) -> None:
        self._models: dict[str, RecordedModels] = {}
        """By the name that the user gave; empty for the recorded ones."""

    def replay(self, request: ReplayRequest) -> TapeOutcome:
        """Replay the requested runs of a tape, and update it if requested and needed.

        A run that cannot be replayed has a failed outcome. Raise StoreError if the tape cannot be
        read or replaced, RecordingError if a tape to update was altered, and ReplayError if the new
        recording does not pass either.
        """
        found = self._replay_runs(Path(request.tape), request)
        if request.update and not found.passes:
            return self._update(request, found)
        return found

    def _replay_runs(self, tape: Path, request: ReplayRequest) -> TapeOutcome:
        with open_store(tape, must_exist=True) as store:
            return TapeOutcome(
                runs={
                    index: self._replay_run(store, summary.run_id, replace(request, run=index))
                    for index, summary in enumerate(store.summaries())
                    if request.run is None or index == request.run
                }
            )

    def _replay_run(self, store: OpenedStore, run_id: str, request: ReplayRequest) -> RunOutcome:
        try:
            run = load_run(store.recording(run_id))
            if request.mode == "rebuild":
                found = rebuilt_outcome(rebuild(run))
            else:
                found = replay_run(run, self.model_of(run, request), request, store)
            if found.passes:
                # Checked last: a failing replay gives more detail, but does not see everything.
                check_unaltered(store, run_id)
            return found
        except TokentapeError as error:
            return failed_outcome(one_line(str(error)))

    def model_key(self, run: LoadedRun, request: ReplayRequest) -> str:
        """Return a text that is the same for runs that are replayed with the same model."""
        return RecordedModels(request.model or None).key(run.started)

    def model_of(self, run: LoadedRun, request: ReplayRequest) -> "LoadedModel":
        """Return the model to replay a run with. Raise ModelError if it cannot be loaded."""
        from tokentape.generation import ModelError

        if not (request.model or run.started.model):
            raise ModelError("the recording does not name its model: name it with --tape-model")
        if request.model not in self._models:
            # One at a time: the models of another name are freed.
            self._models = {request.model: RecordedModels(request.model or None)}
        return self._models[request.model].load(run.started)

    def _update(self, request: ReplayRequest, found: TapeOutcome) -> TapeOutcome:
        """Record the tape again, and replace it if the new recording passes."""
        tape = Path(request.tape)
        before = _first_failure(found)
        try:
            with tempfile.TemporaryDirectory(prefix=".updating-", dir=tape.parent) as folder:
                new_tape = Path(folder) / tape.name
                self._rerecord(tape, new_tape, request)
                found = self._replay_both_ways(new_tape, request)
                if not found.passes:
                    raise ReplayError(
                        f"it does not pass ({before}), nor does a new recording "
                        f"({_first_failure(found)}): the tape was not changed"
                    )
                with atomic_write(tape, durable=True) as tmp_path:
                    shutil.copyfile(new_tape, tmp_path)
        except OSError as error:
            raise StoreError(f"cannot update {tape}: {error}") from None
        return replace(found, updated=f"{tape} was recorded again, and passes; before: {before}")

    def _replay_both_ways(self, tape: Path, request: ReplayRequest) -> TapeOutcome:
        """Rebuild every run from its events, and then replay as requested."""
        found = self._replay_runs(tape, replace(request, mode="rebuild"))
        return self._replay_runs(tape, request) if found.passes else found

    def _rerecord(self, tape: Path, new_tape: Path, request: ReplayRequest) -> None:
        from tokentape.replay.rerecord import rerecord

        with (
            open_store(tape, must_exist=True) as old,
            DatabaseStore(database_url("sqlite://")) as new,
        ):
            run_ids = [summary.run_id for summary in old.summaries()]
            for run_id in run_ids:
                # Altered messages or settings must not become a recording that passes.
                check_unaltered(old, run_id)
            rerecorded: dict[str, Recording] = {}
            for recording in with_parents(map(old.recording, run_ids)):
                run = load_run(recording)
                forked = run.forked
                parent = None if forked is None else rerecorded[forked.parent_run_id]
                run_id = rerecord(run, self.model_of(run, request), new, parent=parent)
                rerecorded[recording.run_id] = new.recording(run_id)
            pack(rerecorded.values(), new, new_tape)


def replay_run(
    run: LoadedRun, lm: "LoadedModel", request: ReplayRequest, store: OpenedStore
) -> RunOutcome:
    """Verify, retrace or regenerate the requested turns of a run. Raise the errors of `verify`.

    Turns that the events do not suffice to replay fail; the other turns are replayed.
    """
    from tokentape.replay.regenerate import regenerate
    from tokentape.replay.retrace import retrace
    from tokentape.replay.verify import verify

    replays = {"verify": verify, "retrace": retrace, "regenerate": regenerate}
    chosen = choose_replayable(run, request)
    if not chosen.replayable:
        return chosen.outcome(None, request)
    options = chosen.options(run, lm, request, store)
    return chosen.outcome(replays[request.mode](run, lm, **options), request)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayableTurns:
    """The turns of a run to replay, and the outcomes of those that are not replayed."""

    replayable: tuple[int, ...]
    others: dict[int, TurnOutcome]

    def options(
        self, run: LoadedRun, lm: "LoadedModel", request: ReplayRequest, store: OpenedStore
    ) -> "CheckKeywords":
        """Return the keywords of the replay."""
        from tokentape.replay.checking.noise_floor import read_floor, stored_floor

        given = read_floor(Path(request.floor)) if request.floor else None
        return {
            "turns": self.replayable,
            "floor": given or stored_floor(store, run, lm),
            "ignore": request.ignore,
        }

    def outcome(self, report: "Report | None", request: ReplayRequest) -> RunOutcome:
        """Return the outcome of the run, and write its page; without a report that of the rest."""
        if report is None:
            return RunOutcome(verdict="", turns=self.others)
        if request.html:
            _write_page(request.page(request.run or 0), report)
        found = report_outcome(report, allow_drift=request.allow_drift)
        return replace(found, turns=dict(sorted((self.others | found.turns).items())))


def choose_replayable(run: LoadedRun, request: ReplayRequest) -> ReplayableTurns:
    """Return the requested turns that can be replayed, and the outcomes of the others."""
    from tokentape.replay.checking.turn_choice import replay_obstacle
    from tokentape.replay.retrace import clock_obstacle

    with_tokens = [turn for turn in run.turns_of_model if turn.tokens]
    turns = [each for each in with_tokens if request.turns is None or each.number in request.turns]
    failed: dict[int, TurnOutcome] = {}
    for turn in turns:
        obstacle = replay_obstacle(turn)
        if request.mode == "retrace":
            obstacle = obstacle or clock_obstacle(turn)
        if obstacle:
            failed[turn.number] = TurnOutcome(verdict="", failure=obstacle)
    # Turns that a fork shares with a parent of another model are replayed there.
    of_parents = {
        turn.number: TurnOutcome(verdict="", failure="")
        for turn in run.turns
        if turn.tokens and turn.number not in {each.number for each in with_tokens}
    }
    return ReplayableTurns(
        replayable=tuple(turn.number for turn in turns if turn.number not in failed),
        others=of_parents | failed,
    )


def _write_page(path: Path, report: "Report") -> None:
    """Write the report as a page. Raise StoreError if that fails."""
    from tokentape.replay.reports.html import html_report

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as tmp_path:
            tmp_path.write_text(html_report([report]), encoding="utf-8")
    except OSError as error:
        raise StoreError(f"cannot write the report {path}: {error}") from None


def check_unaltered(store: OpenedStore, run_id: str) -> None:
    """Raise RecordingError if a recording does not match its seals."""
    found = check(store, run_id)
    if not found.ok:
        where = "" if found.bad_turn is None else f" (turn {found.bad_turn})"
        raise RecordingError(f"altered after it was recorded{where}: {found.faults[0]}")


def _first_failure(found: TapeOutcome) -> str:
    return next(run.first_failure for run in found.runs.values() if not run.passes)


def one_line(text: str) -> str:
    """Return the text with all whitespace, line ends too, made single spaces."""
    return " ".join(text.split())
