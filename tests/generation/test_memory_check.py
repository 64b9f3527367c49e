"""A model that is too large is rejected with one line, before its weights are read."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import tokentape as tt
from tokentape.generation.models import memory_check
from tokentape.store import DatabaseStore


def test_a_model_that_is_too_large_is_rejected_with_both_sizes(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory_check, "free_bytes", lambda device: 100_000)
    with pytest.raises(tt.ModelError, match=r"too large .* 0\.[0-9] GB in float32, and 0\.0 GB"):
        tt.load_model(str(tiny_folder))


def test_the_command_says_so_and_exits_with_2(
    tiny_folder: Path,
    tmp_path: Path,
    record: Callable[..., tt.Recording],
    cli: Callable[..., tuple[int, str, str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = tmp_path / "runs.db"
    with tt.open_store(path) as store:
        record(tt.load_model(str(tiny_folder)), store)
    monkeypatch.setattr(memory_check, "free_bytes", lambda device: 1000)
    code, out, err = cli("verify", "--store", str(path))

    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert "too large for the memory" in err


def test_the_memory_limit_of_a_container_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory_check, "_CGROUP", tmp_path)
    whole = memory_check.free_bytes(torch.device("cpu"))
    (tmp_path / "memory.max").write_text("5000000\n")
    (tmp_path / "memory.current").write_text("3000000\n")

    assert whole > 5_000_000
    assert memory_check.free_bytes(torch.device("cpu")) == 2_000_000
    (tmp_path / "memory.max").write_text("max\n")
    assert memory_check.free_bytes(torch.device("cpu")) > 5_000_000


def test_running_out_of_memory_is_one_line_and_other_errors_pass(
    lm: tt.LoadedModel, store: DatabaseStore, record: Callable[..., tt.Recording]
) -> None:
    recording = record(lm, store)
    lm.model.register_forward_pre_hook(lambda *_: torch.empty(2**55))
    with pytest.raises(tt.ModelError, match=r"not enough memory to forward \d+ tokens"):
        tt.verify(recording, lm)
    with pytest.raises(RuntimeError, match="something else"), memory_check.enough_memory("read"):
        raise RuntimeError("something else")
