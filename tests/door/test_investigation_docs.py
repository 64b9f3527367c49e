"""The examples of docs/investigations.md run, in order, as one program."""

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).resolve().parents[2] / "docs" / "investigations.md"


@pytest.mark.demo_model
def test_the_examples_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    names: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, PAGE.name, "exec"), names)
    names["store"].close()  # type: ignore[attr-defined]

    assert len(blocks) == 6
    said = capsys.readouterr().out.splitlines()
    assert "[0, 1, 2, 3, 4] ['model.layers.29']" in said
    assert said[-1].startswith("I think")
