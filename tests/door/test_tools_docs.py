"""The examples of docs/tools.md run, in order, as one program, and say what the page says."""

import re
import sys
from pathlib import Path

import pytest

import tokentape as tt

PAGE = Path(__file__).resolve().parents[2] / "docs" / "tools.md"


def test_the_examples_run(
    lm: tt.LoadedModel,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    page = PAGE.read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    (file,) = re.findall(r"```py\n(.*?)```", page, flags=re.DOTALL)
    (tmp_path / "my_tools.py").write_text(file, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    shown = "".join(re.findall(r"```text\n(.*?)```", page, flags=re.DOTALL)).splitlines()
    names: dict[str, object] = {"lm": lm}
    for block in blocks:
        exec(compile(block, PAGE.name, "exec"), names)
    said = capsys.readouterr().out.splitlines()

    assert len(blocks) == 6
    assert '{"tensors": 9, "parameters": 55296}' in said
    assert "() {'pattern': 'mlp'}" in said
    both = names["both"]
    assert isinstance(both, tt.ToolInterface)
    assert both.names[-2:] == ("count_words", "vocabulary_size")
    assert len(shown) == 4
    assert set(shown) <= set(said)


def test_the_default_limits_are_those_of_the_page() -> None:
    from tokentape.generation.tools import declaration as tools

    page = PAGE.read_text(encoding="utf-8")

    assert f"| `seconds_max` | {tools.SECONDS_MAX:g} |" in page
    assert f"| `output_chars_max` | {tools.OUTPUT_CHARS_MAX:,} |" in page
