"""The files of a model decide neither its attention kernel nor which code runs."""

import io
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, Gemma3Config
from transformers.integrations import hub_kernels

import tokentape as tt
from tests.samplers import GREEDY
from tokentape.generation.models import loading
from tokentape.generation.models.model_config import read_config
from tokentape.generation.models.model_sizes import meta_model
from tokentape.generation.models.recorded_model import load_as_recorded
from tokentape.store import DatabaseStore

Variant = Callable[..., Path]
KERNELS = [
    "someone/kernel",
    "someone/kernel:function",
    "someone/kernel@main",
    "someone/kernel@main:function",
    "paged|someone/kernel",
    {"": "someone/kernel"},
]
CODE = """
import pathlib
from transformers import LlamaConfig, LlamaForCausalLM

pathlib.Path(__RAN__).touch()

class OwnConfig(LlamaConfig):
    model_type = "own"

class OwnModel(LlamaForCausalLM):
    config_class = OwnConfig
"""


@pytest.fixture
def variant(tiny_folder: Path, tmp_path: Path) -> Variant:
    """Return a function that copies the tiny model and sets fields of one of its JSON files."""

    def copy(file: str = "config.json", **fields: Any) -> Path:
        folder = tmp_path / "variant"
        shutil.copytree(tiny_folder, folder)
        described = json.loads((folder / file).read_text()) | fields
        (folder / file).write_text(json.dumps(described))
        return folder

    return copy


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the names of kernels that transformers would have fetched, from here on."""
    names: list[str] = []

    def get_kernel(name: str, *_: Any, **__: Any) -> Any:
        names.append(name)
        raise ValueError(f"{name} was to be fetched")

    monkeypatch.setattr(hub_kernels, "is_kernels_available", lambda *_, **__: True)
    monkeypatch.setattr(hub_kernels, "_kernels_available", True, raising=False)  # before 5.20
    monkeypatch.setattr(hub_kernels, "get_kernel", get_kernel)
    return names


def kernels_of(model: Any) -> set[str]:
    return {
        module.config._attn_implementation for module in model.modules() if "config" in vars(module)
    }


def started_with(lm: tt.LoadedModel, store: DatabaseStore) -> Any:
    with tt.Investigation(lm, store=store, name="x", system_prompt="Hi.") as run:
        run.chat("One?", **GREEDY)
    return store.recording(run.run_id).started()


@pytest.mark.parametrize("field", ["_attn_implementation", "attn_implementation"])
@pytest.mark.parametrize("kernel", [*KERNELS, "eager", {"": "eager"}, "nonsense", 5], ids=str)
def test_a_kernel_in_a_config_is_not_used_and_not_fetched(
    field: str, kernel: object, variant: Variant, fetched: list[str]
) -> None:
    folder = variant(**{field: kernel})

    assert kernels_of(tt.load_model(folder).model) == {"sdpa"}
    assert kernels_of(tt.load_model(folder, attn_implementation="eager").model) == {"eager"}
    meta_model(folder)
    meta_model(folder / "config.json")
    assert fetched == []


def test_a_kernel_that_the_user_names_is_fetched(variant: Variant, fetched: list[str]) -> None:
    with pytest.raises(tt.ModelError, match="someone/kernel was to be fetched"):
        tt.load_model(variant(), attn_implementation="someone/kernel")
    assert set(fetched) == {"someone/kernel"}


@pytest.mark.parametrize("kernel", ["someone/kernel", "eager"])
def test_a_kernel_of_a_part_of_a_model_is_not_used(
    kernel: str, fetched: list[str], tmp_path: Path
) -> None:
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 2}
    text = small | heads | {"num_key_value_heads": 1, "head_dim": 8, "vocab_size": 32}
    vision = small | heads | {"image_size": 16, "patch_size": 8}
    Gemma3Config(text_config=text, vision_config=vision).save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    described = json.loads(file.read_text())
    described["text_config"]["_attn_implementation"] = kernel
    described["vision_config"]["_attn_implementation"] = {"": kernel}
    described["_attn_implementation"] = {"text_config": kernel, "vision_config": kernel}
    file.write_text(json.dumps(described))
    config = read_config(
        {"pretrained_model_name_or_path": str(tmp_path), "trust_remote_code": False}, "sdpa"
    )
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)

    assert kernels_of(model) == {"sdpa"}
    assert fetched == []


def test_other_implementations_in_a_config_are_not_used(variant: Variant) -> None:
    folder = variant(
        _experts_implementation="batched_mm", fusion_config={"nothing": True}, use_kernels=True
    )
    config = tt.load_model(folder).model.config

    assert config._experts_implementation == "eager"
    assert not hasattr(config, "fusion_config")


def test_a_model_that_ends_with_another_kernel_is_refused(
    variant: Variant, monkeypatch: pytest.MonkeyPatch
) -> None:
    def change(loaded: tuple[Any, Any], layer: str, kernel: str) -> tuple[Any, Any]:
        model, _ = loaded
        model.get_submodule(layer).config = type(model.config)()
        model.get_submodule(layer).config._attn_implementation = kernel
        return loaded

    folder = variant()
    load = AutoModelForCausalLM.from_pretrained
    layer = "model.layers.1.self_attn"
    for kernel, asked in (("flex_attention", "sdpa"), ("sdpa", "eager")):
        monkeypatch.setattr(
            loading.AutoModelForCausalLM,
            "from_pretrained",
            lambda *given, kernel=kernel, **keywords: change(
                load(*given, **keywords), layer, kernel
            ),
        )
        with pytest.raises(tt.ModelError, match=f"{layer} computes attention with '{kernel}'"):
            tt.load_model(folder, attn_implementation=asked)


@pytest.fixture
def own_code(
    variant: Variant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[Path, Path]:
    """Return the folder of a model with Python code, and the file that the code makes."""
    modules = str(tmp_path / "modules")
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", modules)
    monkeypatch.setattr(sys, "path", [*sys.path, modules])
    code = {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnModel"}
    folder = variant(model_type="own", auto_map=code)
    (folder / "own.py").write_text(CODE.replace("__RAN__", repr(str(tmp_path / "ran"))))
    return folder, tmp_path / "ran"


def test_the_code_of_a_model_runs_only_if_the_user_says_so(
    own_code: tuple[Path, Path], store: DatabaseStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, ran = own_code
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n" * 9))
    for load in (tt.load_model, meta_model):
        with pytest.raises(tt.ModelError):
            load(folder)
    with pytest.raises(tt.ModelError, match="is not run without --trust-remote-code"):
        tt.load_model(folder)
    assert not ran.exists()

    lm = tt.load_model(folder, trust_remote_code=True)
    assert ran.exists()
    started = started_with(lm, store)
    assert started.loading == {"trust_remote_code": True}
    ran.unlink()
    for name in (None, str(folder)):
        with pytest.raises(tt.ModelError, match="is not run without --trust-remote-code"):
            load_as_recorded(name, started)
    again = load_as_recorded(None, started, trust_remote_code=True)
    assert type(again.model).__name__ == "OwnModel"


def test_the_code_of_a_tokenizer_does_not_run(
    variant: Variant, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = {"AutoTokenizer": ["own.Own", None]}
    folder = variant("tokenizer_config.json", auto_map=code, tokenizer_class="Own")
    (folder / "own.py").write_text("raise SystemExit('it ran')")
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n" * 9))

    with pytest.raises(tt.ModelError, match="is not run without --trust-remote-code"):
        tt.load_model(folder)


def test_weights_that_are_missing_are_not_random_numbers(variant: Variant) -> None:
    folder = variant()
    file = folder / "model.safetensors"
    tensors = load_file(file)
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, file, metadata={"format": "pt"})

    with pytest.raises(tt.ModelError, match=r"lack 1 of its tensors, such as model\.layers\.1"):
        tt.load_model(folder)


def test_a_config_does_not_quantize_weights_that_are_not_quantized(variant: Variant) -> None:
    folder = variant(quantization_config={"quant_method": "quanto", "weights": "int8"})

    with pytest.raises(tt.ModelError, match=r"lack \d+ of its tensors"):
        tt.load_model(folder)


class Pickled:
    """Runs code when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return exec, ("raise SystemExit('it ran')",)


def test_pickled_weights_run_no_code(variant: Variant) -> None:
    folder = variant()
    (folder / "model.safetensors").unlink()
    torch.save({"lm_head.weight": Pickled()}, folder / "pytorch_model.bin")

    with pytest.raises(tt.ModelError, match="Weights only load failed"):
        tt.load_model(folder)


@pytest.mark.parametrize("elsewhere", ["../elsewhere/{}", "{}/elsewhere/{}", "a/../../{}", "C:{}"])
def test_an_index_lists_no_weights_outside_its_folder(
    elsewhere: str, variant: Variant, tmp_path: Path
) -> None:
    folder = variant()
    (tmp_path / "elsewhere").mkdir()
    weights = (folder / "model.safetensors").rename(tmp_path / "elsewhere" / "model.safetensors")
    with safe_open(weights, framework="pt") as opened:
        names = list(opened.keys())
    name = elsewhere.replace("{}/e", f"{tmp_path}/e").format("model.safetensors")
    index = {"metadata": {}, "weight_map": dict.fromkeys(names, name)}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))

    with pytest.raises(tt.ModelError, match="lists weights outside its folder"):
        tt.load_model(folder)


@pytest.mark.parametrize(
    ("file", "fields"),
    [
        ("tokenizer_config.json", {"fast_tokenizer_files": ["../elsewhere/tokenizer.4.0.json"]}),
        ("config.json", {"configuration_files": ["a.json", "/elsewhere/config.4.0.json"]}),
        ("config.json", {"transformers_weights": r"..\elsewhere\model.safetensors"}),
        ("config.json", {"transformers_weights": "sub/model.safetensors.index.json"}),
    ],
)
def test_a_config_names_no_file_outside_its_folder(
    file: str, fields: dict[str, Any], variant: Variant, tmp_path: Path
) -> None:
    folder = variant(file, **fields)
    (tmp_path / "elsewhere").mkdir()
    shutil.copy(folder / "tokenizer.json", tmp_path / "elsewhere" / "tokenizer.4.0.json")

    with pytest.raises(tt.ModelError, match=f"{file} names a file outside its folder"):
        tt.load_model(folder)


@pytest.mark.parametrize("name", ["chat_template.jinja", "additional_chat_templates/other.jinja"])
def test_a_chat_template_is_no_link_to_a_file_elsewhere(
    name: str, variant: Variant, tmp_path: Path
) -> None:
    folder = variant()
    secret = tmp_path / "secret"
    secret.write_text("{{ messages[0].content }}")
    template = folder / name
    template.parent.mkdir(exist_ok=True)
    template.unlink(missing_ok=True)
    template.symlink_to(secret)

    with pytest.raises(tt.ModelError, match=r"\.jinja is a link out of its folder"):
        tt.load_model(folder)
    (folder / "moved").write_text(secret.read_text())
    template.unlink()
    template.symlink_to(folder / "moved")
    assert tt.load_model(folder).tokenizer.chat_template


def test_the_hub_links_a_chat_template_to_its_blobs(variant: Variant, tmp_path: Path) -> None:
    repository = tmp_path / "models--someone--tiny"
    folder = repository / "snapshots" / ("a" * 40)
    shutil.copytree(variant(), folder)
    blob = repository / "blobs" / "0"
    blob.parent.mkdir()
    blob.write_text("{{ messages[0].content }}")
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    (folder / "chat_template.jinja").symlink_to("../../blobs/0")

    assert tt.load_model(folder).tokenizer.chat_template == blob.read_text()


@pytest.mark.parametrize("tag", ["include '/etc/hostname'", "import 'x' as y", "extends 'x'"])
def test_a_chat_template_reads_no_other_file(tag: str, variant: Variant) -> None:
    folder = variant()
    (folder / "chat_template.jinja").write_text("{% " + tag + " %}")
    lm = tt.load_model(folder)

    with pytest.raises(tt.PromptError, match="no loader"):
        tt.ManualGenerator(lm.model, lm.tokenizer).generate("Hello", **GREEDY)


def test_a_config_of_an_encoder_and_a_decoder_is_refused(variant: Variant) -> None:
    with pytest.raises(tt.ModelError, match="only decoders can be recorded"):
        tt.load_model(variant(is_encoder_decoder=True))
