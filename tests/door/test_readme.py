"""The README's examples run, in order, as one program."""

import re
from pathlib import Path

import pytest
import typer.main

import tokentape as tt
from tokentape.cli import app

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.demo_model
def test_the_python_examples_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    names: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, "README.md", "exec"), names)
    names["store"].close()  # type: ignore[attr-defined]

    assert len(blocks) == 6
    assert capsys.readouterr().out.splitlines()[-1] == "verified exact"


def test_every_command_is_shown_and_every_shown_command_exists() -> None:
    shown = set(re.findall(r"^\$ tokentape (\w+)", README, flags=re.MULTILINE))
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]

    assert shown | {"demo"} == {name for name, command in commands.items() if not command.hidden}


def test_every_verdict_is_explained() -> None:
    assert all(f"| `{verdict}` |" in README for verdict in tt.Verdict)
