"""The example of docs/replay.md runs, and its tables are complete."""

import re
from pathlib import Path

import pytest

import tokentape as tt
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
