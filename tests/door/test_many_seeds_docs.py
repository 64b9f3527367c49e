"""The examples of docs/many-seeds.md run, and its columns are those of the frame."""

import re
from pathlib import Path

import pytest

from tokentape.store.frames.seeds import SEEDS_DF

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "many-seeds.md").read_text(encoding="utf-8")


def test_the_examples_run(
    tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (plan,) = re.findall(r"```yaml\n(.*?)```", PAGE, flags=re.DOTALL)
    Path("talk.yaml").write_text(plan)
    names: dict[str, object] = {}
    for block in re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL):
        code = block.replace("smollm2-demo", str(tiny_folder))
        exec(compile(code, "many-seeds.md", "exec"), names)

    frame = names["frame"]
    assert set(frame["runs"]) == {4}  # type: ignore[index]
    assert frame["low"].notna().all()  # type: ignore[index]
    assert Path("entropy.svg").stat().st_size > 1000


def test_each_column_is_explained() -> None:
    table = PAGE.partition("| column | meaning |")[2].partition("\n\n")[0]

    assert re.findall(r"^\| `(\w+)` \|", table, flags=re.MULTILINE) == SEEDS_DF.names
