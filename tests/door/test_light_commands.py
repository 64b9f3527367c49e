"""The libraries that a command does not import: each of them takes from 0.1 to 5 seconds."""

import subprocess
import sys
from pathlib import Path

import tokentape as tt
from tokentape.store import DatabaseStore

TORCH = {"torch", "transformers", "accelerate", "peft"}
FRAMES = {"pandas", "pyarrow.dataset"}
STORES = {"sqlalchemy", "alembic", "pyarrow", "numpy"}

WITHOUT_STORE: tuple[tuple[tuple[str, ...], int], ...] = (
    (("--version",), 0),
    (("--help",), 0),
    (("verify", "--help"), 0),
    (("list", "--stor", "x"), 2),
    (("lst",), 2),
    (("run", "--list"), 0),
    (("run", "phase1f"), 2),
)
"""Commands and their exit codes."""

WITH_STORE: tuple[tuple[tuple[str, ...], int], ...] = (
    (("list",), 0),
    (("show",), 0),
    (("show", "--turn", "1"), 0),
    (("show", "--tree"), 0),
    (("check",), 0),
    (("rebuild",), 0),
    (("tail", "--no-follow"), 0),
    (("diff", "#01", "#01"), 0),
    (("db", "current"), 0),
)

PROGRAM = """
import sys
import tokentape.cli as cli
for command, expected in {commands!r}:
    command = [each.replace("#", "runs.db#") for each in command]
    sys.argv = ["tokentape", *command]
    code = cli._run()
    assert code == expected, (command, code)
    heavy = {heavy!r} & sys.modules.keys()
    assert not heavy, (command, heavy)
"""


def check(commands: tuple[tuple[tuple[str, ...], int], ...], heavy: set[str], folder: Path) -> None:
    program = PROGRAM.format(commands=commands, heavy=heavy)
    done = subprocess.run([sys.executable, "-c", program], cwd=folder, capture_output=True)

    assert done.returncode == 0, done.stderr.decode()


def test_commands_that_open_no_store_load_no_library_of_stores(tmp_path: Path) -> None:
    check(WITHOUT_STORE, TORCH | FRAMES | STORES, tmp_path)


def test_commands_that_need_no_model_and_no_frame_load_neither_torch_nor_pandas(
    tmp_path: Path,
) -> None:
    tape = Path(__file__).resolve().parents[2] / "examples" / "ci" / "recordings" / "greedy.tape"
    with tt.open_store(tmp_path / "runs.db") as store:
        assert isinstance(store, DatabaseStore)
        tt.import_runs(tape, store)
    commands = tuple(((*command, "--store", "runs.db"), code) for command, code in WITH_STORE)
    check(commands, TORCH | FRAMES, tmp_path)
    # Its tokens are read as a table, for which pyarrow imports pandas.
    check(((("view", "--store", "runs.db"), 0),), TORCH, tmp_path)
