"""The examples of docs/interventions.md run, in order, as one program."""

import re
from pathlib import Path

import pytest

import tokentape as tt
from tokentape.store import DatabaseStore

PAGE = Path(__file__).resolve().parents[2] / "docs" / "interventions.md"


def test_the_examples_run(
    lm: tt.LoadedModel, store: DatabaseStore, capsys: pytest.CaptureFixture[str]
) -> None:
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    names: dict[str, object] = {"lm": lm, "tt": tt, "store": store}
    for block in blocks:
        exec(compile(block, PAGE.name, "exec"), names)
    first, second, third, verdicts, cause = capsys.readouterr().out.splitlines()

    assert len(blocks) == 2
    assert first == "1 []"
    assert second[2:] == third[2:]
    assert (verdicts, cause) == ("verified exact", "intervention")
