"""Models of a fake hub and PEFT adapters in folders, made in tests."""

import shutil
from pathlib import Path

import pytest
import torch
from peft import LoraConfig

import tokentape as tt

COMMITS = {"main": "a" * 40, "v1": "b" * 40}


def make_hub(
    hub: Path, folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch, *, name: str
) -> None:
    """Write the cache of a hub that cannot be reached: a repository, with a folder of each branch.

    The commits of the branches are those of `COMMITS`.
    """
    repository = hub / f"models--{name.replace('/', '--')}"
    (repository / "refs").mkdir(parents=True)
    for branch, folder in folders.items():
        shutil.copytree(folder, repository / "snapshots" / COMMITS[branch])
        (repository / "refs" / branch).write_text(COMMITS[branch])
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(hub))


def make_adapter(base: Path, folder: Path, *, seed: int = 0, layer: str = "q_proj") -> Path:
    """Save a LoRA adapter of a model with random weights, as PEFT saves it, without a tokenizer.

    Skip the test where transformers needs a PEFT that is not out yet.
    """
    model = tt.load_model(base).model
    config = LoraConfig(r=2, target_modules=[layer], init_lora_weights=False)
    try:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model.add_adapter(config)
    except ValueError as error:
        if "PEFT" not in str(error):
            raise
        pytest.skip(str(error))
    model.save_pretrained(folder)
    return folder
