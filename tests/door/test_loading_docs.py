"""The example of docs/loading.md runs, and the page names every argument of `load_model`."""

import inspect
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import tokentape as tt
from tests.made_models import make_adapter
from tokentape.store import DatabaseStore

Cli = Callable[..., tuple[int, str, str]]
TEXT = (Path(__file__).resolve().parents[2] / "docs" / "loading.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", TEXT, flags=re.DOTALL)


def test_the_example_runs(
    tiny_folder: Path,
    tmp_path: Path,
    store: DatabaseStore,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("optimum.quanto", reason="the extra `quantization` has it")
    adapter = make_adapter(tiny_folder, tmp_path / "adapter")
    exec(BLOCKS[0], {"tt": tt, "folder": tiny_folder, "adapter": adapter, "store": store})

    assert capsys.readouterr().out == "['adapter', 'quantization']\n"


def test_a_model_in_memory_is_replayed_from_the_object_or_its_saved_folder(
    lm: tt.LoadedModel, tmp_path: Path, cli: Cli, capsys: pytest.CaptureFixture[str]
) -> None:
    with torch.no_grad():
        lm.model.lm_head.weight.mul_(1.5)
    where = str(tmp_path / "runs.db")
    with tt.open_store(where) as store:
        exec(BLOCKS[1], {"tt": tt, "lm": lm, "store": store})
    assert capsys.readouterr().out == "verified\n"
    lm.model.save_pretrained(tmp_path / "edited")
    lm.tokenizer.save_pretrained(tmp_path / "edited")

    code, _, message = cli("verify", "edited", "--store", where)
    assert code == 2
    assert "if it was made in Python, save it with save_pretrained" in message
    code, verdict, _ = cli(
        "verify", "edited", "--store", where, "--model", str(tmp_path / "edited")
    )
    assert code == 0
    assert "VERIFIED" in verdict


def test_the_table_names_every_argument() -> None:
    rows = "".join(re.findall(r"^\| (`.*?) \|", TEXT, flags=re.MULTILINE))
    named = set(re.findall(r"`(\w+)`", rows))

    assert named == set(inspect.signature(tt.load_model).parameters) - {"name"}
