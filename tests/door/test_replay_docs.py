"""The example of docs/replay.md runs, and its tables are those of the code."""

import re
from pathlib import Path

import pytest

from tokentape.plugin.settings import FINGERPRINTS
from tokentape.replay.results.fingerprint_names import FORBIDDING
from tokentape.replay.results.verdict import CauseKind, DivergenceKind, Verdict

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

    assert capsys.readouterr().out.startswith("verified the sampler picks every recorded token")


def rows_of(heading: str) -> dict[str, str]:
    """The first two columns of the table in a section, without the backticks of the first."""
    section = PAGE.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    found = re.findall(r"^\| `(\w+)` \| (.*?) \|", section, re.MULTILINE)
    assert len(found) == len(dict(found))
    return dict(found)


@pytest.mark.parametrize(
    ("heading", "members"),
    [
        ("Verdicts", Verdict),
        ("Kinds of divergence", DivergenceKind),
        ("Causes", CauseKind),
    ],
)
def test_the_tables_explain_every_member_in_its_own_words(
    heading: str, members: type[Verdict | DivergenceKind | CauseKind]
) -> None:
    assert all(member.meaning for member in members)
    assert rows_of(heading) == {member.value: member.meaning for member in members}


def test_every_fingerprint_is_explained() -> None:
    assert all(name.replace("_", " ") in PAGE for name in FORBIDDING)
    assert FINGERPRINTS == FORBIDDING
