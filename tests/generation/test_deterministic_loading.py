"""`load_model(deterministic=True)` asks torch for deterministic kernels, and that is recorded."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import tokentape as tt
from tests.samplers import GREEDY
from tokentape.generation.models.loading_settings import recorded_keywords
from tokentape.generation.models.recorded_model import load_as_recorded
from tokentape.generation.numerics.flags import FLAGS, WORKSPACE, current, read_flags
from tokentape.store import DatabaseStore

ON = {"deterministic": "warn", "cudnn_benchmark": "off", WORKSPACE: ":4096:8"}


@pytest.fixture(autouse=True)
def _flags_are_restored() -> Iterator[None]:
    before = read_flags(cuda=True)
    torch.backends.cudnn.benchmark = True
    yield
    for flag in FLAGS:
        if flag.name in before and current(flag) != before[flag.name]:
            flag.write(before[flag.name])


def test_the_flags_are_set_and_recorded(tiny_folder: Path, store: DatabaseStore) -> None:
    lm = tt.load_model(tiny_folder, deterministic=True)
    assert ON.items() <= read_flags(cuda=True).items()
    with tt.Investigation(lm, store=store, name="x", system_prompt="Hi.") as run:
        run.chat("One?", **GREEDY)
    started = store.recording(run.run_id).started()

    assert started.environment["deterministic"] == "warn"
    assert started.loading == {"deterministic": True}


def test_a_model_that_is_loaded_without_it_changes_nothing(tiny_folder: Path) -> None:
    before = read_flags(cuda=True)
    assert tt.load_model(tiny_folder).loading == {}
    assert read_flags(cuda=True) == before
    tt.load_model(tiny_folder, deterministic=True)
    tt.load_model(tiny_folder)
    assert ON.items() <= read_flags(cuda=True).items()


def test_a_recorded_run_is_loaded_with_it_again(tiny_folder: Path, store: DatabaseStore) -> None:
    lm = tt.load_model(tiny_folder, deterministic=True)
    with tt.Investigation(lm, store=store, name="x", system_prompt="Hi.") as run:
        run.chat("One?", **GREEDY)
    torch.use_deterministic_algorithms(False)
    again = load_as_recorded(str(tiny_folder), store.recording(run.run_id).started())

    assert again.loading == {"deterministic": True}
    assert torch.is_deterministic_algorithms_warn_only_enabled()
    assert tt.verify(store.recording(run.run_id), again).verdict is tt.Verdict.VERIFIED


def test_a_workspace_of_the_user_is_kept(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(WORKSPACE, ":16:8")
    tt.load_model(tiny_folder, deterministic=True)
    assert os.environ[WORKSPACE] == ":16:8"


def test_no_workspace_is_set_where_cuda_has_read_it(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(torch.cuda, "is_initialized", lambda: True)
        tt.load_model(tiny_folder, deterministic=True)
    assert WORKSPACE not in os.environ
    assert torch.are_deterministic_algorithms_enabled()


@pytest.mark.parametrize("value", ["yes", 1.5, None])
def test_another_value_is_refused(tiny_folder: Path, value: object) -> None:
    with pytest.raises(tt.ModelError, match="deterministic must be true or false"):
        tt.load_model(tiny_folder, deterministic=value)  # type: ignore[arg-type]


def test_turns_have_the_same_numbers_with_it(tiny_folder: Path, store: DatabaseStore) -> None:
    """On a CPU, where every kernel that a turn needs is deterministic anyway."""
    recorded = []
    for deterministic in (False, True):
        lm = tt.load_model(tiny_folder, deterministic=deterministic)
        with tt.Investigation(lm, store=store, name="x", system_prompt="Hi.") as run:
            run.chat("One?", max_new_tokens=6, do_sample=True)
        turns = store.recording(run.run_id).turns()
        recorded.append([(each.token_id, each.logprob) for turn in turns for each in turn.tokens])

    assert recorded[0] == recorded[1]


def test_commands_have_the_option(tiny_folder: Path, tmp_path: Path) -> None:
    """In a process of its own, whose flags end with it."""
    store, plan = tmp_path / "runs.db", tmp_path / "plan.yaml"
    plan.write_text(
        'name: short\nsystem_prompt: "Hi."\nlimits: {max_new_tokens: 2}\n'
        'tasks: [{title: Look, turns: [{message: "One?"}]}]\n'
    )
    command = [sys.executable, "-m", "tokentape", "run", str(plan), "--model", str(tiny_folder)]
    command += ["--store", str(store), "--deterministic"]
    subprocess.run(command, check=True, capture_output=True)
    with tt.open_store(store) as opened:
        started = opened.recording(opened.summaries()[0].run_id).started()

    assert started.loading == {"deterministic": True}
    assert started.environment["deterministic"] == "warn"


def test_a_recorded_gpu_is_found_before_cuda_has_read_the_workspace(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def initialise(*given: object, **keywords: object) -> None:
        raise AssertionError("CUDA is initialised")

    monkeypatch.setattr(torch, "empty", initialise)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)

    assert recorded_keywords({"device": "cuda"})["device"] == "cuda"
    assert "device" not in recorded_keywords({"device": "cuda:1"})
    assert "device" not in recorded_keywords({"device": "no device"})
