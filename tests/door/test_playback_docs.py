"""The examples of docs/playback.md run, in order, as one program, and print what the page shows."""

import re
from pathlib import Path

import pytest

import tokentape as tt

PAGE = Path(__file__).resolve().parents[2] / "docs" / "playback.md"


def test_the_examples_run(
    lm: tt.LoadedModel,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    page = PAGE.read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    shown = re.findall(r"```text\n(.*?)```", page, flags=re.DOTALL)
    names: dict[str, object] = {"lm": lm}
    for block in blocks:
        exec(compile(block, PAGE.name, "exec"), names)

    assert len(blocks) == 4
    assert capsys.readouterr().out == "".join(shown)


def test_the_snippets_without_a_run_are_python() -> None:
    page = PAGE.read_text(encoding="utf-8")

    snippets = re.findall(r"```py\n(.*?)```", page, flags=re.DOTALL)
    assert snippets
    for block in snippets:
        compile(block, PAGE.name, "exec")
