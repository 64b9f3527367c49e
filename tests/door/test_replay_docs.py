"""The example of docs/replay.md runs, and what it names is there."""

import re
from pathlib import Path

import pytest
import typer.main

import tokentape as tt
from tokentape.cli import app
from tokentape.replay.checking.fingerprint_check import FORBIDDING
from tokentape.replay.verdict import CAUSES

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "replay.md").read_text(encoding="utf-8")


@pytest.mark.demo_model
def test_the_example_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (block,) = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    names: dict[str, object] = {}
    exec(compile(block, "replay.md", "exec"), names)
    names["store"].close()  # type: ignore[attr-defined]

    assert capsys.readouterr().out.startswith("verified every token is the one that is picked")


def test_every_cause_verdict_and_fingerprint_is_explained() -> None:
    table = PAGE.split("## Causes")[1]
    named = re.findall(r"`(\w+)`", "".join(re.findall(r"^\| (`.*?) \|", table, re.MULTILINE)))

    assert set(named) == set(CAUSES)
    assert all(f"| `{verdict}` |" in PAGE for verdict in tt.Verdict)
    assert all(name.replace("_", " ") in PAGE for name in FORBIDDING)


def test_every_option_that_is_shown_exists() -> None:
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    shown = re.findall(r"^\$ tokentape (\w+)(.*)$", PAGE, flags=re.MULTILINE)

    assert shown
    for command, rest in shown:
        known = {flag for option in commands[command].params for flag in option.opts}
        assert set(re.findall(r"(--\w[\w-]*)", rest)) <= known
