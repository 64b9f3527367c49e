"""Ask pip whether tokentape resolves in one environment with each of its neighbours.

`python -m tests.matrix.neighbours` installs nothing: pip reads metadata from the package index and
reports the versions that it would install. The table goes to stdout; `docs/versions.md` has the
last one. Exit 1 if a neighbour does not resolve.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
NEIGHBOURS = (
    "mlflow",
    "datasets",
    "transformer-lens",
    "nnsight",
    "trl",
    "peft",
    "vllm",
    "inspect-ai",
)
SHOWN = ("torch", "transformers", "pandas", "pyarrow", "sqlalchemy", "numpy")


def pip(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run pip of this environment without this machine's configuration file."""
    return subprocess.run(
        [sys.executable, "-m", "pip", *map(str, arguments)],
        env=os.environ | {"PIP_CONFIG_FILE": os.devnull, "PIP_DISABLE_PIP_VERSION_CHECK": "1"},
        capture_output=True,
        text=True,
    )


def resolved(wheel: Path, neighbour: str, folder: Path) -> dict[str, str] | str:
    """Return the version of each package that pip would install, or why it refuses."""
    report = folder / f"{neighbour}.json"
    done = pip(
        "install", "--dry-run", "--ignore-installed", "--prefer-binary", "--quiet",
        "--report", report, wheel, neighbour,
    )  # fmt: skip
    if done.returncode:
        return done.stderr.strip().splitlines()[-1]
    found = [each["metadata"] for each in json.loads(report.read_text("utf-8"))["install"]]
    return {each["name"].lower().replace("_", "-"): each["version"] for each in found}


def main() -> int:
    """Build the wheel, resolve it with each neighbour, and print a Markdown table."""
    failed = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        built = pip("wheel", "--no-deps", "--quiet", "--wheel-dir", folder, ROOT)
        if built.returncode:
            print(built.stderr, file=sys.stderr)
            return 2
        wheel = next(folder.glob("tokentape-*.whl"))
        print("| beside |", " | ".join(SHOWN), "|")
        print("|---|" + "---|" * len(SHOWN))
        for neighbour in NEIGHBOURS:
            found = resolved(wheel, neighbour, folder)
            if isinstance(found, str):
                failed += 1
                print(f"| {neighbour} | {found} |")
                continue
            versions = " | ".join(found.get(package, "–") for package in SHOWN)
            print(f"| {neighbour} {found[neighbour]} | {versions} |", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
