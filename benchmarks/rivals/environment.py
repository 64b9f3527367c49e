"""A virtual environment for each rival: their requirements conflict with tokentape's."""

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import tokentape as tt

_HERE = Path(__file__).parent
_ROOT = _HERE.parent.parent
_LIMIT_S = 900
# Variables with which a user configures these programs would change the measurement.
_FOREIGN = ("MLFLOW_", "INSPECT_", "PYTHON")


class RivalMissingError(tt.TokentapeError):
    """A rival cannot be installed or run on this machine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rival:
    """Another recorder."""

    name: str
    module: str
    """The module of this package that runs it."""
    needs: str
    """The name of its requirements file in this folder."""

    @property
    def requirements(self) -> Path:
        """Return the path of its requirements file."""
        return _HERE / self.needs


RIVALS = (
    Rival(name="Inspect AI", module="inspect_log", needs="inspect.txt"),
    Rival(name="MLflow", module="mlflow_trace", needs="mlflow.txt"),
)


def cache_folder() -> Path:
    """Return the default folder of the environments."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "tokentape" / "benchmarks"


def python_of(rival: Rival, home: Path, notify: Callable[[str], None]) -> Path:
    """Return the Python of the rival's environment in `home`, installing it the first time.

    Raise RivalMissingError if it cannot be installed, e.g. without a network.
    """
    wanted = rival.requirements.read_bytes() + sys.version.encode()
    folder = home / f"{rival.requirements.stem}-{hashlib.sha256(wanted).hexdigest()[:12]}"
    python, complete = folder / "bin" / "python", folder / "complete"
    if not complete.is_file():
        notify(f"installing {rival.name} into {folder}, once")
        _call([sys.executable, "-m", "venv", "--clear", str(folder)])
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        _call([*pip, "--requirement", str(rival.requirements)])
        complete.touch()
    return python


def run_rival(rival: Rival, python: Path, task: Path, folder: Path) -> str:
    """Run the rival's module in `folder`; return its results as JSON.

    Raise RivalMissingError if it fails.
    """
    home = {"HOME": str(folder), "XDG_DATA_HOME": str(folder), "XDG_CACHE_HOME": str(folder)}
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(_FOREIGN)}
    # No telemetry.
    quiet = {"DO_NOT_TRACK": "true", "MLFLOW_DISABLE_TELEMETRY": "true"}
    command = [str(python), "-m", f"benchmarks.rivals.{rival.module}", str(task), str(folder)]
    _call(command, cwd=folder, env=inherited | home | quiet | {"PYTHONPATH": str(_ROOT)})
    return (folder / "results.json").read_text(encoding="utf-8")


def _call(
    command: list[str], *, cwd: Path | None = None, env: dict[str, str] | None = None
) -> None:
    try:
        done = subprocess.run(
            command, cwd=cwd, env=env, capture_output=True, text=True, timeout=_LIMIT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise RivalMissingError(str(error)) from None
    if done.returncode:
        raise RivalMissingError(_reason(done))


def _reason(done: "subprocess.CompletedProcess[str]") -> str:
    """Return the last line that mentions an error: warnings may follow it."""
    lines = (done.stderr.strip() or done.stdout.strip()).splitlines()
    errors = [line for line in lines if "error" in line.lower()]
    return (errors or lines or [f"exit code {done.returncode}"])[-1]
