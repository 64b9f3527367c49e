"""The examples of docs/plans.md run, and its plans exist."""

import re
from pathlib import Path

import pytest

from tokentape.generation.plans import load_plan, shipped_plans

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "plans.md").read_text(encoding="utf-8")


@pytest.mark.demo_model
def test_the_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (block,) = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    names: dict[str, object] = {}
    exec(compile(block, "plans.md", "exec"), names)

    assert len(names["replies"]) == 2  # type: ignore[arg-type]


def test_the_plan_that_is_shown_can_be_loaded(tmp_path: Path) -> None:
    (block,) = re.findall(r"```yaml\n(.*?)```", PAGE, flags=re.DOTALL)
    (tmp_path / "background.md").write_text("Some background.")
    (tmp_path / "mine.yaml").write_text(block)
    turns = load_plan(tmp_path / "mine.yaml").turns()

    assert [turn.document for turn in turns] == ["", "", "background", ""]


def test_every_shipped_plan_and_the_turn_of_its_document_is_named() -> None:
    for each in shipped_plans():
        (row,) = re.findall(rf"^\| `{each.name}` \|.*$", PAGE, flags=re.MULTILINE)
        numbers = [turn.number for turn in each.turns() if turn.document]

        assert all(f"(turn {number})" in row or "as in" in row for number in numbers)
