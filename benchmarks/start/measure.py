"""Seconds of new processes: commands without a model, and loading the demo model."""

import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import tokentape as tt
from benchmarks.peers.llama_cpp import demo_gguf
from benchmarks.store.workload import make_workload
from benchmarks.stores import open_file_store

BARE = "python -c 'import sqlalchemy'"
OURS, FROM_GGUF = "tokentape", "transformers, from GGUF"
_COMMANDS = ("list", "show", "rebuild")
_TURNS, _TURN_TOKENS = 20, 40

_LOAD = """
import time, torch, transformers
{imports}
began = time.perf_counter()
{load}
print(time.perf_counter() - began)
"""


def make_run(lm: tt.LoadedModel, path: Path) -> str:
    """Record 20 turns of 40 tokens into a new file; return the id of the run."""
    workload = make_workload(lm, turns=_TURNS, turn_tokens=_TURN_TOKENS)
    with open_file_store(path) as store:
        recorder = tt.Recorder(store)
        for _, event in workload.events:
            recorder.record(event)
    return recorder.run_id


def measure_commands(
    path: Path, run_id: str, *, rounds: int, tick: Callable[[], None] = lambda: None
) -> dict[str, list[float]]:
    """Return the seconds of each command in each round, and of importing SQLAlchemy alone.

    One more round, the first, warms up and is not counted.
    """
    python = [sys.executable, "-m", "tokentape"]
    commands = {f"tokentape {name}": [*python, name, "--store", str(path)] for name in _COMMANDS}
    for name in _COMMANDS[1:]:
        commands[f"tokentape {name}"].append(run_id)
    commands[BARE] = [sys.executable, "-c", "import sqlalchemy"]
    return _in_turn({name: _timing(command) for name, command in commands.items()}, rounds, tick)


def measure_loading(
    *, rounds: int, tick: Callable[[], None] = lambda: None
) -> dict[str, list[float]]:
    """Return the seconds of loading the demo model in each round: ours, and from GGUF.

    Importing torch and transformers is not timed. Each load has a process of its own.
    """
    file = demo_gguf()
    load = (
        f"AutoTokenizer.from_pretrained({str(file.parent)!r}, gguf_file={file.name!r}); "
        f"AutoModelForCausalLM.from_pretrained({str(file.parent)!r}, gguf_file={file.name!r}, "
        "dtype='float32')"
    )
    programs = {
        OURS: _LOAD.format(imports="import tokentape as tt", load="tt.load_model('smollm2-demo')"),
        FROM_GGUF: _LOAD.format(
            imports="from transformers import AutoModelForCausalLM, AutoTokenizer", load=load
        ),
    }
    timed = {name: _reporting([sys.executable, "-c", each]) for name, each in programs.items()}
    return _in_turn(timed, rounds, tick, warm_up=False)


def _in_turn(
    timed: Mapping[str, Callable[[], float]],
    rounds: int,
    tick: Callable[[], None],
    *,
    warm_up: bool = True,
) -> dict[str, list[float]]:
    seconds: dict[str, list[float]] = {name: [] for name in timed}
    for number in range(rounds + warm_up):
        for name, time_once in timed.items():
            seconds[name].append(time_once())
            tick()
        if warm_up and not number:
            seconds = {name: [] for name in timed}
    return seconds


def _timing(command: list[str]) -> Callable[[], float]:
    """Return a function that runs the command and returns its seconds."""

    def run() -> float:
        began = time.perf_counter()
        _run(command)
        return time.perf_counter() - began

    return run


def _reporting(command: list[str]) -> Callable[[], float]:
    """Return a function that runs the command and returns the number that it prints last."""
    return lambda: float(_run(command).split()[-1])


def _run(command: list[str]) -> str:
    """Return what a command prints. Raise ModelError with its last line if it fails."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise tt.ModelError(f"{' '.join(command[1:4])}: {lines[-1]}")
    return done.stdout
