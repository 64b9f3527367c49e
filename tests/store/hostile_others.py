"""Databases, files of JSON lines, plans and floors that take too much; see `hostile_files`."""

import os
from pathlib import Path

import tokentape as tt
from tests.made_events import run_started
from tests.store.hostile_files import Maker, NoAttachments, recording
from tests.store.large_runs import conversation
from tokentape.recorder.events import ToolCalled
from tokentape.store import DatabaseStore

_SPARSE_BYTES = 20 * 1024**3


def pipe(folder: Path, name: str = "runs.db") -> Path:
    """A named pipe: whoever opens it waits for ever."""
    os.mkfifo(folder / name)
    return folder / name


def pipe_as_tape(folder: Path) -> Path:
    """A named pipe with the suffix of a tape."""
    return pipe(folder, "run.tape")


def pipe_as_log(folder: Path) -> Path:
    """A sound database whose write-ahead log is a named pipe."""
    path = folder / "runs.db"
    with tt.open_store(path) as store:
        assert isinstance(store, DatabaseStore)
        store.import_run(recording(), NoAttachments())
    pipe(folder, "runs.db-wal")
    return path


def wide_json_in_a_database(folder: Path) -> Path:
    """A database with a body of 15 MB of empty lists."""
    path = folder / "runs.db"
    call = ToolCalled(call_id="c", name="look", arguments={"at": [[]] * 5_000_000})
    with tt.open_store(path) as store, tt.Recorder(store) as recorder:
        for event in (run_started(name="hostile"), call, *conversation(2, 3)):
            recorder.record(event)
    return path


def endless_line(folder: Path) -> Path:
    """A sparse file of 20 GB without an end of line, which takes no space on disk."""
    path = folder / "runs.jsonl"
    with path.open("wb") as file:
        file.write(b'{"run_id": "x", "seq": "')
        file.truncate(_SPARSE_BYTES)
    return path


def wide_line(folder: Path) -> Path:
    """A line of 30 MB of empty lists."""
    path = folder / "runs.jsonl"
    path.write_text('{"run_id": "x", "seq": [' + "[]," * 10_000_000 + "[]]}\n")
    return path


def deep_line(folder: Path) -> Path:
    """A line of a million nested lists."""
    path = folder / "runs.jsonl"
    path.write_text('{"run_id": "x", "seq": ' + "[" * 1_000_000 + "]" * 1_000_000 + "}\n")
    return path


OTHERS: dict[str, Maker] = {
    each.__name__: each
    for each in (
        pipe,
        pipe_as_tape,
        pipe_as_log,
        wide_json_in_a_database,
        endless_line,
        wide_line,
        deep_line,
    )
}


def laughing_plan(folder: Path) -> Path:
    """A plan of 400 bytes whose aliases stand for 10^9 values."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    for each in range(1, 9):
        lines.append(f"a{each}: &a{each} [{', '.join([f'*a{each - 1}'] * 10)}]")
    return _plan(folder, "\n".join(lines))


def circular_plan(folder: Path) -> Path:
    """A plan with a list that contains itself."""
    return _plan(folder, "name: x\ntasks: &a [*a]")


def wide_plan(folder: Path) -> Path:
    """A plan of a million empty lists."""
    return _plan(folder, "a: [" + "[]," * 1_000_000 + "]")


def deep_plan(folder: Path) -> Path:
    """A plan of 100,000 nested lists."""
    return _plan(folder, "a: " + "[" * 100_000 + "]" * 100_000)


def long_number_plan(folder: Path) -> Path:
    """A plan with a number to the base 60 of a million digits."""
    return _plan(folder, "seed: 1" + ":59" * 1_000_000)


def pipe_as_document(folder: Path) -> Path:
    """A plan whose document is a named pipe."""
    pipe(folder, "document.txt")
    return _plan(folder, "name: x\ntasks: [a]\nbackground:\n  document: document.txt")


def _plan(folder: Path, text: str) -> Path:
    path = folder / "plan.yaml"
    path.write_text(text)
    return path


PLANS: dict[str, Maker] = {
    each.__name__: each
    for each in (
        laughing_plan,
        circular_plan,
        wide_plan,
        deep_plan,
        long_number_plan,
        pipe_as_document,
    )
}


def pipe_as_floor(folder: Path) -> Path:
    """A named pipe in place of a floor."""
    return pipe(folder, "floor.json")


def large_floor(folder: Path) -> Path:
    """A floor of 30 MB."""
    path = folder / "floor.json"
    path.write_text("[" + "[]," * 10_000_000 + "[]]")
    return path


def deep_floor(folder: Path) -> Path:
    """A floor of 100,000 nested lists."""
    path = folder / "floor.json"
    path.write_text("[" * 100_000 + "]" * 100_000)
    return path


FLOORS: dict[str, Maker] = {
    each.__name__: each for each in (pipe_as_floor, large_floor, deep_floor)
}
