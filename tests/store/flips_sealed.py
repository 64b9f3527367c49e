"""Damage of tapes and sealed folders, and what every reader then says.

`damage_sealed` copies a sound file or folder, damages the copy, reads it in every way and compares
the answers with those of the sound one. `make torture` calls it with hundreds of changes.
"""

import io
import json
import random
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import tokentape as tt
from tests.store.crash import record_script
from tests.store.made_families import fork, short_run
from tokentape.cli import main
from tokentape.recorder.events import ToolReturned
from tokentape.store import DatabaseStore, StoredFloor, StoredVerdict
from tokentape.store.frames.columns import FRAMES
from tokentape.store.run_follower import RunFollower

_CODES = (0, 1, 2, 3, 5)
Answers = dict[str, tuple[int, str]]
"""The exit code and the output of every reader, by its name."""
Damage = Callable[[bytearray, random.Random], str]
"""Changes the content of a file, and returns what it did."""


@dataclass
class Figures:
    """What came of damaging files."""

    counts: Counter[str] = field(default_factory=Counter)
    """Changes by class: `harmless`, `found` by `check`, `refused` by a command, `silent`,
    `unexpected`."""
    faults: list[str] = field(default_factory=list)
    """The silent and the unexpected ones, a line each."""

    def __str__(self) -> str:
        names = ("harmless", "found", "refused", "silent", "unexpected")
        shown = ", ".join(f"{self.counts[name]} {name}" for name in names)
        return f"{sum(self.counts.values())} changes: {shown}"


def make_sound(folder: Path) -> list[Path]:
    """Seal runs with payloads, verdicts, floors and a fork; return a tape and a folder of them."""
    with tt.open_store(folder / "runs.db") as store:
        assert isinstance(store, DatabaseStore)
        parent_id = short_run(store)
        fork(store, parent_id, at_turn=2)
        run_id = record_script(store, "a run", turns=2, seed=1)
        report = {"reason": "all equal", "turns": [{"tokens": 3, "mismatches": 0}]}
        store.add_verdict(
            StoredVerdict(
                run_id=run_id, at_us=10**15, replay="verify", verdict="verified", report=report
            )
        )
        store.add_floor(
            StoredFloor(run_id=run_id, at_us=10**15, version="f-1", floor={"logprob": 1e-5})
        )
        recordings = [store.recording(each.run_id) for each in store.summaries()]
        tape = tt.pack(recordings, store, folder / "sound.tape")
        for recording in recordings:
            tt.export_parquet(recording, store, folder / "sound")
    return [tape, folder / "sound"]


def run_command(*arguments: str) -> tuple[int, str]:
    """Run a command in this process; return its exit code, and standard output or error."""
    out, err = io.StringIO(), io.StringIO()
    code = 99
    with (
        mock.patch.object(sys, "argv", ["tokentape", *arguments]),
        redirect_stdout(out),
        redirect_stderr(err),
    ):
        try:
            main()
        except SystemExit as exited:
            code = int(exited.code or 0)
        except Exception as error:
            return 99, f"{type(error).__name__} left the command: {error}"
    text = err.getvalue()
    if "(TOKENTAPE_TRACEBACK=1 shows where)" in text or code not in _CODES:
        return 99, text
    return code, out.getvalue() if code in (0, 1) else text


def answers_of(where: Path, run_ids: list[str], scratch: Path, *, quick: bool = False) -> Answers:
    """Read everything, in every way unless `quick`."""
    answers: Answers = {}
    store = ("--store", str(where))
    for name, arguments in _commands(run_ids, scratch, quick):
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir()
        if name == "import":
            code, text = run_command("import", str(where), *arguments)
        else:
            code, text = run_command(*arguments, *store)
        answers[name] = (code, text if code else text + _content(scratch, name))
    answers |= {name: _read(where, read) for name, read in _readers(run_ids, quick)}
    return answers


def _commands(run_ids: list[str], scratch: Path, quick: bool) -> Iterator[tuple[str, list[str]]]:
    """Yield the name and the arguments of every command that reads a sealed store."""
    yield "list", ["list", "--json"]
    if quick:
        yield "import", ["--store", "sqlite://", "--json"]
        for run_id in run_ids:
            yield f"check {run_id}", ["check", run_id]
        return
    yield "tree", ["show", run_ids[-1], "--tree", "--json"]
    yield "diff", ["diff", run_ids[0], run_ids[1], "--json"]
    yield "import", ["--store", str(scratch / "new.db"), "--json"]
    yield "pack", ["pack", *run_ids, "-o", str(scratch / "again.tape")]
    for run_id in run_ids:
        yield f"check {run_id}", ["check", run_id]
        yield f"show {run_id}", ["show", run_id, "--turn", "2", "--json"]
        yield f"rebuild {run_id}", ["rebuild", run_id, "--json"]
        yield f"tail {run_id}", ["tail", run_id, "--no-follow"]
        for to in ("jsonl", "csv", "parquet"):
            path = str(scratch / f"out.{to}")
            yield f"{to} {run_id}", ["export", run_id, "--to", to, "-o", path]


def _content(folder: Path, name: str) -> str:
    """Return the content of the files that a command wrote, but those of a database."""
    if name == "import":
        return ""
    files = (each for each in sorted(folder.rglob("*")) if each.is_file())
    return "".join(f"{each.name}: {each.read_bytes()!r}" for each in files)


Reader = Callable[[Any], object]


def _readers(run_ids: list[str], quick: bool) -> Iterator[tuple[str, Reader]]:
    for name in FRAMES:
        frame = getattr(tt, name)
        yield name, lambda store, frame=frame: frame(store).to_json(orient="table")
        if quick:
            continue
        yield (
            f"{name} pyarrow",
            lambda store, frame=frame: str(frame(store, dtype_backend="pyarrow").to_dict()),
        )
    for run_id in run_ids:
        yield f"turns of {run_id}", lambda store, run_id=run_id: store.recording(run_id).turns()
        yield (
            f"messages of {run_id}",
            lambda store, run_id=run_id: store.recording(run_id).messages(),
        )
        yield (
            f"attachments of {run_id}",
            lambda store, run_id=run_id: [store.verdicts(run_id), store.floors(run_id)],
        )
        yield f"payloads of {run_id}", lambda store, run_id=run_id: _payloads(store, run_id)
        yield (
            f"following {run_id}",
            lambda store, run_id=run_id: RunFollower(store, store.recording(run_id)).poll(),
        )


def _payloads(store: Any, run_id: str) -> list[bytes]:
    events = (each.event for each in store.recording(run_id).events())
    return [store.blob(each.payload_sha256) for each in events if isinstance(each, ToolReturned)]


def _read(where: Path, read: Reader) -> tuple[int, str]:
    try:
        with tt.open_store(where) as store:
            return 0, str(read(store))
    except tt.TokentapeError as error:
        return error.exit_code, str(error)
    except Exception as error:
        return 99, f"{type(error).__name__}: {error}"


def classify(answers: Answers, sound: Answers) -> tuple[str, str]:
    """Return the class of a change, and the reader that shows it."""
    for name, (code, text) in answers.items():
        if code == 99:
            return "unexpected", f"{name}: {text.strip()}"
    differing = [name for name, answer in answers.items() if answer != sound[name]]
    if not differing:
        return "harmless", ""
    if any(name.startswith("check ") for name in differing):
        return "found", ""
    given = [name for name in differing if answers[name][0] in (0, 1)]
    if given:
        return "silent", f"{given[0]}: {answers[given[0]][1][:300]}"
    return "refused", ""


def flip(content: bytearray, chance: random.Random) -> str:
    """Change one bit."""
    at, bit = chance.randrange(len(content)), chance.randrange(8)
    content[at] ^= 1 << bit
    return f"bit {bit} of byte {at}"


def truncate(content: bytearray, chance: random.Random) -> str:
    """Cut off the end."""
    length = chance.randrange(len(content))
    del content[length:]
    return f"cut to {length} bytes"


def zero(content: bytearray, chance: random.Random) -> str:
    """Write zeros over a block."""
    start = chance.randrange(len(content))
    end = min(len(content), start + chance.choice((8, 512, 4096)))
    content[start:end] = bytes(end - start)
    return f"zeros from {start} to {end}"


def swap_words(content: bytearray, chance: random.Random) -> str:
    """Reverse the bytes of an aligned word."""
    at = 4 * chance.randrange(max(1, len(content) // 4))
    content[at : at + 4] = content[at : at + 4][::-1]
    return f"word at {at} reversed"


def damage_sealed(
    sound: Path,
    scratch: Path,
    count: int,
    *,
    seed: int,
    damage: Damage = flip,
    quick: bool = False,
    truth: Answers | None = None,
) -> Figures:
    """Damage a tape or folder `count` times, the files of a folder in turn; count the outcomes.

    With `quick`, only `list`, `check`, `import`, the frames and the recordings are read. `truth` is
    filled with the answers of the sound files, or has them from an earlier call with this scratch.
    """
    chance, figures = random.Random(seed), Figures()
    where = scratch / f"damaged{sound.suffix}"
    _copy(sound, where)
    run_ids = _run_ids(where)
    truth = {} if truth is None else truth
    if not truth:
        truth |= answers_of(where, run_ids, scratch / "made", quick=quick)
    assert all(code in (0, 1) for code, _ in truth.values()), truth
    names = [each.relative_to(sound) for each in sorted(sound.rglob("*")) if each.is_file()]
    for number in range(count):
        name = names[number % len(names)] if names else Path()
        path = where / name
        content = bytearray(path.read_bytes())
        sound_bytes = bytes(content)
        done = damage(content, chance)
        path.write_bytes(content)
        answers = answers_of(where, run_ids, scratch / "made", quick=quick)
        kind, why = classify(answers, truth)
        path.write_bytes(sound_bytes)
        figures.counts[kind] += 1
        if kind in ("silent", "unexpected"):
            figures.faults.append(f"{name}, {done}: {kind}, {why}")
    return figures


def exchange_files(sound: Path, scratch: Path, count: int, *, seed: int) -> Figures:
    """Put one file of a folder in the place of another, `count` times; count the outcomes."""
    names = [each.relative_to(sound) for each in sorted(sound.rglob("*")) if each.is_file()]
    contents = [(sound / name).read_bytes() for name in names]

    def replace(content: bytearray, chance: random.Random) -> str:
        other = chance.choice([each for each in contents if each != bytes(content)])
        content[:] = other
        return f"replaced by {names[contents.index(other)]}"

    return damage_sealed(sound, scratch, count, seed=seed, damage=replace)


def _copy(sound: Path, where: Path) -> None:
    if sound.is_dir():
        shutil.rmtree(where, ignore_errors=True)
        shutil.copytree(sound, where)
    else:
        shutil.copy(sound, where)


def _run_ids(where: Path) -> list[str]:
    code, text = run_command("list", "--json", "--store", str(where))
    assert code == 0, text
    return [each["run_id"] for each in json.loads(text)]
