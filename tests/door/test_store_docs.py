"""The examples of docs/store.md run, in order, as one program."""

import re
from pathlib import Path

import pytest

import tokentape as tt

PAGE = Path(__file__).resolve().parents[2] / "docs" / "store.md"


def test_the_examples_run(
    tmp_path: Path,
    lm: tt.LoadedModel,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    names: dict[str, object] = {"lm": lm}
    for block in blocks:
        exec(compile(block, PAGE.name, "exec"), names)
    names["store"].close()  # type: ignore[attr-defined]
    checked, labelled, erased, said = capsys.readouterr().out.splitlines()

    assert len(blocks) == 5
    assert checked.startswith("True 2 0 blake2b-256:")
    assert labelled == "('layer-3',) norms grow from turn 7 on"
    assert erased.endswith(" 1 ()")
    assert said == "Write to [address]"
