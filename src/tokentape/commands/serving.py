"""Replays for the pytest plugin, which runs this in a process of its own.

A request is a JSON object, a line of standard input; so is its answer on standard output, with the
`id` of the request and perhaps an `error`. It ends where the requests do.
"""

import json
import os
import shutil
import tempfile
import traceback
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

import tokentape as tt
from tokentape.commands.options import Store, load_as_recorded
from tokentape.commands.outcomes import (
    Request,
    RunOutcome,
    failed,
    rebuilt,
    replay_run,
)
from tokentape.recorder.atomic_write import atomic_write
from tokentape.recorder.projections import whole_turns
from tokentape.store import DatabaseStore, database_url
from tokentape.store.source import with_parents


def serve_replays() -> None:
    """Answer the requests of the pytest plugin."""
    requests, answers = _own_streams()
    server = Server()
    for line in requests:
        answers.write(json.dumps(server.answer(json.loads(line))).encode() + b"\n")
        answers.flush()


def _own_streams() -> tuple[IO[bytes], IO[bytes]]:
    """Standard input and output for requests alone: a library that prints does so to stderr."""
    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    return requests, answers


class Server:
    """Keeps the last model that it was asked to replay with."""

    def __init__(self) -> None:
        self._lm: tt.LoadedModel | None = None
        self._loaded = ("", "")
        self._refused: dict[str, str] = {}

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """To any request; an error is an answer, too."""
        id_, verb = request.pop("id"), request.pop("do")
        try:
            answer = list_runs(**request) if verb == "list" else self._replay(Request(**request))
            return {"id": id_, **answer}
        except tt.TokentapeError as error:
            text = str(error)
        except Exception as error:
            traceback.print_exc()
            text = f"unexpected {type(error).__name__}: {error}"
        return {"id": id_, "error": one_line(text)}

    def _replay(self, request: Request) -> dict[str, Any]:
        """Outcomes by the place of their run, and what was updated, in words."""
        found, updated = self._replay_tape(Path(request.tape), request), ""
        if request.update and not all(run.passes for run in found.values()):
            found, updated = self._update(request, found)
        runs = {str(place): run.to_dict() for place, run in found.items()}
        return {"runs": runs, "updated": updated}

    def _replay_tape(self, tape: Path, request: Request) -> dict[int, RunOutcome]:
        with tt.open_store(tape, must_exist=True) as store:
            return {
                place: self._replay_run(store, summary.run_id, request)
                for place, summary in enumerate(store.summaries())
                if request.run is None or place == request.run
            }

    def _replay_run(self, store: Store, run_id: str, request: Request) -> RunOutcome:
        try:
            recording = store.recording(run_id)
            if request.mode == "rebuild":
                found = rebuilt(tt.rebuild(recording))
            else:
                found = replay_run(recording, self._model(recording, request), request, store)
            if found.passes:
                # A replay says more of what it sees, but it does not see everything.
                check_unaltered(store, run_id)
            return found
        except tt.TokentapeError as error:
            return failed(one_line(str(error)))

    def _model(self, recording: tt.Recording, request: Request) -> "tt.LoadedModel":
        started = recording.started()
        name = request.model or started.model
        if not name:
            raise tt.ModelError("the recording does not name its model: say which: --tape-model")
        if name in self._refused:
            raise tt.ModelError(self._refused[name])
        if self._lm is None or self._loaded != (name, started.dtype):
            self._lm = None  # not two models at once
            try:
                self._lm = load_as_recorded(name, started)
                self._loaded = (name, started.dtype)
            except tt.ModelError as error:
                self._refused[name] = str(error)
                raise
        return self._lm

    def _update(
        self, request: Request, found: dict[int, RunOutcome]
    ) -> tuple[dict[int, RunOutcome], str]:
        """Record the tape anew, and put that in its place once it has passed itself."""
        tape = Path(request.tape)
        why = next(run.first_failure for run in found.values() if not run.passes)
        try:
            with tempfile.TemporaryDirectory(prefix=".updating-", dir=tape.parent) as aside:
                made = Path(aside) / tape.name
                self._record_anew(tape, made, request)
                again = self._replay_twice(made, request)
                failing = [run.first_failure for run in again.values() if not run.passes]
                if failing:
                    raise tt.ReplayError(
                        f"it does not pass ({why}), nor does what was recorded anew "
                        f"({failing[0]}): it was left as it was"
                    )
                with atomic_write(tape, durable=True) as tmp_path:
                    shutil.copyfile(made, tmp_path)
        except OSError as error:
            raise tt.StoreError(f"cannot update {tape}: {error}") from None
        return again, f"{tape} was recorded anew, and passes; before: {why}"

    def _replay_twice(self, tape: Path, request: Request) -> dict[int, RunOutcome]:
        """Rebuilt from its events, and then as it was asked for."""
        found = self._replay_tape(tape, replace(request, mode="rebuild"))
        if all(run.passes for run in found.values()):
            found = self._replay_tape(tape, request)
        return found

    def _record_anew(self, tape: Path, made: Path, request: Request) -> None:
        from tokentape.replay.rerecord import rerecord

        with (
            tt.open_store(tape, must_exist=True) as old,
            DatabaseStore(database_url("sqlite://")) as new,
        ):
            run_ids = [summary.run_id for summary in old.summaries()]
            for run_id in run_ids:
                # What somebody changed is not to be made true.
                check_unaltered(old, run_id)
            anew: dict[str, tt.Recording] = {}
            for recording in with_parents(map(old.recording, run_ids)):
                forked = recording.forked()
                parent = None if forked is None else anew[forked.parent_run_id]
                lm = self._model(recording, request)
                again = rerecord(recording, lm, new, parent=parent)
                anew[recording.run_id] = new.recording(again)
            tt.pack(anew.values(), new, made)


def list_runs(tape: str) -> dict[str, Any]:
    """Names and turns of the runs in a tape. Needs no model, and no torch."""
    with tt.open_store(tape, must_exist=True) as store:
        runs = []
        for summary in store.summaries():
            turns = whole_turns(store.recording(summary.run_id).turns())
            numbers = [turn.number for turn in turns if turn.tokens]
            runs.append({"name": summary.name, "turns": numbers})
    return {"runs": runs}


def check_unaltered(store: Store, run_id: str) -> None:
    """Raise RecordingError for a recording that is not what was sealed."""
    found = tt.check(store, run_id)
    if not found.ok:
        where = "" if found.bad_turn is None else f" (turn {found.bad_turn})"
        raise tt.RecordingError(f"altered after it was recorded{where}: {found.faults[0]}")


def one_line(text: str) -> str:
    return " ".join(text.split())
