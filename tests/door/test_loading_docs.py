"""The example of docs/loading.md runs, and the page names every argument of `load_model`."""

import inspect
import re
from pathlib import Path

import pytest

import tokentape as tt
from tests.made_models import make_adapter
from tokentape.store import DatabaseStore

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "loading.md").read_text(encoding="utf-8")


def test_the_example_runs(
    tiny_folder: Path,
    tmp_path: Path,
    store: DatabaseStore,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("optimum.quanto", reason="the extra `quantization` has it")
    adapter = make_adapter(tiny_folder, tmp_path / "adapter")
    (block,) = re.findall(r"```python\n(.*?)```", TEXT, flags=re.DOTALL)

    exec(block, {"tt": tt, "folder": tiny_folder, "adapter": adapter, "store": store})

    assert capsys.readouterr().out == "['adapter', 'quantization']\n"


def test_the_table_names_every_argument() -> None:
    rows = "".join(re.findall(r"^\| (`.*?) \|", TEXT, flags=re.MULTILINE))
    named = set(re.findall(r"`(\w+)`", rows))

    assert named == set(inspect.signature(tt.load_model).parameters) - {"name"}
