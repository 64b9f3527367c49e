"""An environment for each rival, made where there is none yet: their needs and ours conflict."""

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
# What the user has set for his own work would change what is measured.
_FOREIGN = ("MLFLOW_", "INSPECT_", "PYTHON")


class RivalMissingError(tt.TokentapeError):
    """A rival that cannot be installed or run here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rival:
    """`module` is the one of this package that runs it, `needs` a file of requirements."""

    name: str
    module: str
    needs: str

    @property
    def requirements(self) -> Path:
        return _HERE / self.needs


RIVALS = (
    Rival(name="Inspect AI", module="inspect_log", needs="inspect.txt"),
    Rival(name="MLflow", module="mlflow_trace", needs="mlflow.txt"),
)


def cache_folder() -> Path:
    """Where environments are kept unless it is said otherwise."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "tokentape" / "benchmarks"


def python_of(rival: Rival, home: Path, say: Callable[[str], None]) -> Path:
    """The Python of the rival's environment, which is made at the first call.

    Raises RivalMissingError where it cannot be, without network for instance.
    """
    wanted = rival.requirements.read_bytes() + sys.version.encode()
    folder = home / f"{rival.requirements.stem}-{hashlib.sha256(wanted).hexdigest()[:12]}"
    python, complete = folder / "bin" / "python", folder / "complete"
    if not complete.is_file():
        say(f"installing {rival.name} into {folder}, once")
        _call([sys.executable, "-m", "venv", "--clear", str(folder)])
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        _call([*pip, "--requirement", str(rival.requirements)])
        complete.touch()
    return python


def run_rival(rival: Rival, python: Path, talk: Path, folder: Path) -> str:
    """What it kept, as JSON. Raises RivalMissingError where it fails."""
    home = {"HOME": str(folder), "XDG_DATA_HOME": str(folder), "XDG_CACHE_HOME": str(folder)}
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_FOREIGN)}
    # Nobody is told over the network that a benchmark runs.
    quiet = {"DO_NOT_TRACK": "true", "MLFLOW_DISABLE_TELEMETRY": "true"}
    command = [str(python), "-m", f"benchmarks.rivals.{rival.module}", str(talk), str(folder)]
    _call(command, cwd=folder, env=kept | home | quiet | {"PYTHONPATH": str(_ROOT)})
    return (folder / "kept.json").read_text(encoding="utf-8")


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
    """The last line that speaks of an error: warnings may come after it."""
    said = (done.stderr.strip() or done.stdout.strip()).splitlines()
    errors = [line for line in said if "error" in line.lower()]
    return (errors or said or [f"exit code {done.returncode}"])[-1]
