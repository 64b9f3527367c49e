"""Run tests in one environment of `make matrix`: `python -m tests.matrix.run NAME TESTS…`.

A line with the versions, the counts of pytest and the seconds goes to stdout and to the file
`result` of the environment.
"""

import os
import platform
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = (
    "torch",
    "transformers",
    "tokenizers",
    "huggingface_hub",
    "accelerate",
    "peft",
    "numpy",
    "pandas",
    "pyarrow",
    "sqlalchemy",
    "alembic",
    "psycopg",
    "typer",
    "rich",
    "gguf",
)


# What a library announces for a later release is shown, and is no failure of the present one.
ANNOUNCEMENTS = ("DeprecationWarning", "PendingDeprecationWarning", "FutureWarning")


def installed(package: str) -> str:
    """Return the installed version of `package`, or a dash."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "-"


def versions() -> str:
    """Return the versions of this environment in one line."""
    found = ", ".join(f"{package} {installed(package)}" for package in PACKAGES)
    return f"Python {platform.python_version()}, {found}"


def run_tests(tests: list[str]) -> tuple[int, str]:
    """Run pytest in two processes of one thread each; return its exit code and its last line."""
    workers = ["-n", "2", "--dist", "loadfile", "--max-worker-restart", "0"]
    command = [sys.executable, "-m", "pytest", *workers, "-q", *tests]
    command += [f"-Wdefault::{warning}" for warning in ANNOUNCEMENTS]
    pytest = subprocess.Popen(
        command, env=os.environ | {"OMP_NUM_THREADS": "1"}, stdout=subprocess.PIPE, text=True
    )
    assert pytest.stdout is not None
    last = ""
    for line in pytest.stdout:
        print(line, end="", flush=True)
        last = line.strip() or last
    return pytest.wait(), last.strip("= ")


def main() -> int:
    """Run the tests named on the command line, and report versions and result."""
    name, *tests = sys.argv[1:]
    print(f"{name}: {versions()}", flush=True)
    began = time.monotonic()
    code, counts = run_tests(tests)
    result = f"{name}: {versions()}: {counts} (exit {code}, {time.monotonic() - began:.0f} s)\n"
    Path(sys.prefix, "result").write_text(result, encoding="utf-8")
    print(result, end="")
    return code


if __name__ == "__main__":
    sys.exit(main())
