"""The tutorial works: its files and commands, in order, print what the page shows."""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "gated-ci.md").read_text(encoding="utf-8")
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", flags=re.DOTALL | re.MULTILINE)
SAVED_AS = re.compile(r"Save this as `([^`]+)`[^`]*\Z")
# pip and the environment of the page are those of the tests.
INSTALLED = ("pip ", "python3 -m venv", "mkdir river")


def saved_files() -> Iterator[tuple[int, str, str]]:
    """Yield where each file stands that the page has its reader save, its path and its text."""
    for found in FENCE.finditer(PAGE):
        name = SAVED_AS.search(PAGE[: found.start()])
        if name:
            yield found.start(), name[1], found[2]


def commands() -> Iterator[tuple[int, str, list[str]]]:
    """Yield where each command stands, the command, and the lines that the page shows below it."""
    for found in FENCE.finditer(PAGE):
        if found[1] == "console":
            for piece in re.split(r"^\$ ", found[2], flags=re.MULTILINE)[1:]:
                command, *shown = piece.splitlines()
                yield found.start(), command, shown


def is_shown(shown: list[str], printed: str) -> bool:
    """Return whether the lines are printed in their order; … is any text, alone any lines."""
    lines = iter(line.rstrip() for line in printed.splitlines())
    patterns = [re.escape(line).replace("…", ".*") for line in shown if line != "…"]
    return all(any(re.fullmatch(pattern, line) for line in lines) for pattern in patterns)


def environment(folder: Path) -> dict[str, str]:
    """Return an environment in which `tokentape`, `pytest` and `python` are those of the tests."""
    folder.mkdir()
    for name, words in {
        "python": "",
        "tokentape": " -m tokentape",
        "pytest": " -m pytest -p no:cacheprovider",
    }.items():
        script = folder / name
        script.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)}{words} "$@"\n')
        script.chmod(0o755)
    names = {
        f"GIT_{who}_{what}": "t" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")
    }
    inherited = {name: value for name, value in os.environ.items() if name != "CI"}
    return {**inherited, **names, "PATH": f"{folder}:{os.environ['PATH']}", "COLUMNS": "80"}


@pytest.mark.slow
@pytest.mark.demo_model
def test_the_tutorial_runs_from_its_first_command_to_its_last(tmp_path: Path) -> None:
    env = environment(tmp_path / "bin")
    folder = tmp_path / "river"
    folder.mkdir()
    subprocess.run(["git", "init", "--quiet"], cwd=folder, check=True)
    steps = [*((at, None, name, text) for at, name, text in saved_files())]
    steps += [(at, shown, command, "") for at, command, shown in commands()]
    for _, shown, name, text in sorted(steps, key=lambda step: step[0]):
        if shown is None:
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        elif not name.startswith(INSTALLED):
            done = subprocess.run(
                ["bash", "-c", name], cwd=folder, env=env, capture_output=True, text=True
            )
            fails = any(line.startswith("FAILED") for line in shown)
            assert (done.returncode != 0) == fails, f"$ {name}\n{done.stdout}{done.stderr}"
            assert is_shown(shown, done.stdout), f"$ {name}\n{done.stdout}"
    log = subprocess.run(
        ["git", "log", "--oneline"], cwd=folder, check=True, capture_output=True, text=True
    )

    assert len(log.stdout.splitlines()) == 2


def test_every_step_of_its_workflow_is_one_of_the_example() -> None:
    example = ROOT / "examples" / "ci" / ".github" / "workflows" / "replay.yml"
    (text,) = (text for _, name, text in saved_files() if name == ".github/workflows/replay.yml")
    (steps,) = (job["steps"] for job in yaml.safe_load(text)["jobs"].values())
    (known,) = (job["steps"] for job in yaml.safe_load(example.read_text("utf-8"))["jobs"].values())

    assert len(steps) == 4
    assert all(step in known for step in steps)


def test_its_versions_are_those_of_the_example() -> None:
    (text,) = (text for _, name, text in saved_files() if name == "requirements.txt")
    required = (ROOT / "examples" / "ci" / "requirements.txt").read_text(encoding="utf-8")

    assert re.findall(r"^torch==.*$", text, re.MULTILINE)[0] in required.splitlines()
    assert [name for _, name, _ in saved_files()] == [
        "record.py",
        ".gitattributes",
        "change.py",
        "requirements.txt",
        ".github/workflows/replay.yml",
    ]


def test_what_is_shown_must_be_printed_in_its_order() -> None:
    assert is_shown(["a", "…", "c …"], "a\nb\nc 1\n")
    assert not is_shown(["c …", "a"], "a\nb\nc 1\n")
    assert not is_shown(["d"], "a\n")
