"""The programs of the pages about concepts run, and print what the pages say."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def _in_the_folder_of_the_tapes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT / "examples" / "ci" / "recordings")


def run_page(name: str) -> None:
    text = (ROOT / "docs" / name).read_text(encoding="utf-8")
    (block,) = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    exec(compile(block, name, "exec"), {})


def test_the_stream_of_the_page_begins_and_ends_a_run(capsys: pytest.CaptureFixture[str]) -> None:
    run_page("events.md")
    lines = capsys.readouterr().out.splitlines()

    assert lines[0] == "0 None RunStarted"
    assert lines[-1] == f"{len(lines) - 1} None RunFinished"


def test_sampled_turns_have_seeds_and_end_states(capsys: pytest.CaptureFixture[str]) -> None:
    run_page("random-streams.md")
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]

    assert [number for number, _, _ in rows] == ["1", "2", "3"]
    assert all(seed.isdigit() and len(state) == 8 for _, seed, state in rows)
    assert len({seed for _, seed, _ in rows}) == 3
