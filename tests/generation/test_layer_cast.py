"""Weights in 16 bits, computed with in float32, give what the same weights cast whole give."""

import copy
import gc
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

import tokentape as tt
from benchmarks.tiny_models import FAMILIES, random_ids
from tests.generation.narrow_models import MODELS, assert_equal_bits, logits_of, narrow_model, pair
from tests.made_models import make_adapter
from tokentape.generation import fingerprints, hf
from tokentape.generation.hf import scratch
from tokentape.generation.hf.layer_cast import (
    _LazyCast,
    compute_dtype,
    compute_in,
    weights_dtype,
)


@pytest.fixture(params=["new memory", "scratch memory"])
def memory(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Cast small weights too into the memory that large ones are cast into."""
    if request.param == "scratch memory":
        monkeypatch.setattr(scratch, "_BYTES_MIN", 0)
    return str(request.param)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.usefixtures("memory")
def test_prefill_chunks_and_steps_equal_those_of_the_weights_cast_whole(
    name: str, dtype: torch.dtype
) -> None:
    narrow, whole = pair(name, dtype)
    for chunks in (None, 7):
        ids = random_ids(30, seed=1)
        with hf.decoding(narrow):
            given = logits_of(narrow, ids, chunks, 5)

        assert_equal_bits(given, logits_of(whole, ids, chunks, 5))


@settings(max_examples=25)
@given(
    name=st.sampled_from(MODELS),
    seed=st.integers(0, 1000),
    tokens=st.integers(6, 40),
    chunks=st.none() | st.integers(1, 20),
)
def test_any_weights_prompt_and_chunks_give_equal_logits(
    name: str, seed: int, tokens: int, chunks: int | None
) -> None:
    narrow, whole = pair(name, seed=seed)
    ids = random_ids(tokens, seed)

    assert_equal_bits(logits_of(narrow, ids, chunks, 3), logits_of(whole, ids, chunks, 3))


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("sampled", [False, True])
def test_generate_of_transformers_gives_equal_tokens(name: str, sampled: bool) -> None:
    prompt = torch.tensor([random_ids(20, seed=2)])
    replies = []
    for model in pair(name):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(5)
            replies.append(model.generate(prompt, max_new_tokens=20, do_sample=sampled))

    assert torch.equal(*replies)


def test_gradients_reach_the_stored_weights() -> None:
    narrow, whole = pair("llama")
    ids = torch.tensor([random_ids(12, seed=3)])
    for model in (narrow, whole):
        model(ids).logits.square().mean().backward()
    stored, cast = (each.model.layers[0].mlp.up_proj.weight.grad for each in (narrow, whole))

    assert stored.dtype == torch.bfloat16
    assert torch.equal(stored, cast.bfloat16())


def test_a_part_of_the_model_may_be_called_alone() -> None:
    narrow, whole = pair("llama")
    hidden = torch.randn(1, 4, 64, generator=torch.Generator().manual_seed(1))
    for part in (
        lambda model: model.lm_head(model.model.norm(hidden)),
        lambda model: model.model.layers[1].mlp(hidden),
        lambda model: model.get_input_embeddings()(torch.tensor([[3, 4]])),
    ):
        with torch.no_grad():
            assert torch.equal(part(narrow), part(whole))


class Lookup(nn.Module):
    """A head that uses the weights of its embedding, whole, in part, and by their dtype."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 8, padding_idx=0)
        self.experts = nn.Parameter(torch.randn(3, 8, 8))
        self.register_buffer("scale", torch.tensor(1.3))
        self.register_buffer("offset", torch.tensor(0.7), persistent=False)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        weight = self.embedding.weight
        hidden = functional.embedding(input=ids, weight=weight, padding_idx=0)
        hidden = self.embedding(ids).to(weight.dtype) + hidden + weight[ids] + self.offset
        for expert in self.experts.unbind(0):
            hidden = hidden @ expert + functional.linear(hidden, self.experts[1].T)
        hidden = torch.einsum("...h,ehk->...k", hidden, self.experts) * self.experts.mean()
        assert weight.shape == (11, 8)
        assert weight.device == hidden.device
        return functional.linear(hidden, weight * self.scale) + weight.sum(dim=1)


@pytest.mark.usefixtures("memory")
def test_a_module_may_use_weights_without_calling_their_module() -> None:
    torch.manual_seed(1)
    narrow = Lookup().bfloat16()
    whole = copy.deepcopy(narrow).float()
    compute_in(narrow, "float32")
    ids = torch.tensor([[1, 5, 0, 9]])
    for grad in (torch.enable_grad, torch.no_grad, torch.inference_mode):
        with grad():
            result = narrow(ids)

            assert result.dtype == torch.float32
            assert torch.equal(result, whole(ids))
            assert result.requires_grad == whole(ids).requires_grad


def test_a_cast_weight_is_freed_after_its_use() -> None:
    narrow, _ = pair("llama")
    cast: list[weakref.ref[torch.Tensor]] = []
    up = narrow.model.layers[0].mlp.up_proj
    up.register_forward_hook(lambda module, *_: cast.append(weakref.ref(module.weight)))
    narrow(torch.tensor([[3, 4]]))
    gc.collect()

    assert [each() for each in cast] == [None]


@pytest.mark.parametrize("name", ["llama", "gemma3", "qwen3-next", "GptOss"])
def test_of_embeddings_and_experts_only_the_used_rows_are_cast(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    narrow, whole = pair(name)
    for model in (narrow, whole):
        if hasattr(model.config, "_experts_implementation"):
            model.set_experts_implementation("eager")
    monkeypatch.delattr(_LazyCast, "_cast")
    ids = random_ids(20, seed=1)

    assert_equal_bits(logits_of(narrow, ids, None, 3), logits_of(whole, ids, None, 3))


def test_weights_take_half_of_the_memory_before_and_after_forwards() -> None:
    for name in FAMILIES:
        narrow, whole = pair(name)
        narrow(torch.tensor([random_ids(20, seed=1)]))
        sizes = [
            hf.storage_bytes(iter((*model.parameters(), *model.buffers())))
            for model in (narrow, whole)
        ]

        assert sizes[0] <= 0.55 * sizes[1], name


def test_outside_of_forwards_the_weights_are_those_stored_and_can_be_changed() -> None:
    model, untouched = narrow_model("llama"), narrow_model("llama")
    compute_in(model, "float32")
    weight = model.lm_head.weight

    assert isinstance(weight, nn.Parameter)
    assert weight.dtype == weights_dtype(model) == torch.bfloat16
    assert compute_dtype(model) == model.dtype == torch.float32
    assert {each.dtype for each in model.state_dict().values()} == {torch.bfloat16}
    with torch.no_grad():
        for each in (model, untouched):
            each.lm_head.weight[5] += 1
    ids = torch.tensor([random_ids(9, seed=1)])
    with torch.no_grad():
        assert torch.equal(model(ids).logits, untouched.float()(ids).logits)


def test_the_manifest_is_that_of_the_weights_as_stored() -> None:
    for name in FAMILIES:
        model = narrow_model(name)
        before = fingerprints.manifest_of(model)
        compute_in(model, "float32")

        assert fingerprints.manifest_of(model) == before


def test_a_model_cast_whole_later_and_a_copy_compute_the_same() -> None:
    narrow, whole = pair("gemma3")
    copied = copy.deepcopy(narrow)
    ids = torch.tensor([random_ids(20, seed=1)])
    with torch.no_grad():
        expected = whole(ids).logits

        assert torch.equal(copied(ids).logits, expected)
        assert torch.equal(narrow.float()(ids).logits, expected)
    assert weights_dtype(narrow) == torch.float32
    assert weights_dtype(copied) == torch.bfloat16


def test_a_saved_model_has_the_weights_and_the_dtype_as_they_are_stored(tmp_path: Path) -> None:
    narrow = narrow_model("llama")
    compute_in(narrow, "float32")
    narrow.save_pretrained(tmp_path)
    loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype="auto")

    assert loaded.dtype == torch.bfloat16
    assert narrow.dtype == torch.float32
    assert fingerprints.manifest_of(loaded) == fingerprints.manifest_of(narrow)


def test_the_classes_keep_their_names_and_there_are_no_hooks() -> None:
    narrow, whole = pair("llama")
    names = [
        [(type(each).__module__, type(each).__qualname__) for each in model.modules()]
        for model in (narrow, whole)
    ]

    assert names[0] == names[1]
    assert isinstance(narrow, transformers.LlamaForCausalLM)
    assert repr(narrow) == repr(whole)
    assert not any(each._forward_hooks or each._forward_pre_hooks for each in narrow.modules())


def test_a_model_is_loaded_with_narrow_weights_and_computes_in_float32(tiny_folder: Path) -> None:
    loaded = tt.load_model(tiny_folder, dtype="bfloat16", compute_dtype="float32")
    whole = tt.load_model(tiny_folder, dtype="bfloat16").model.float()
    ids = random_ids(30, seed=1)

    assert weights_dtype(loaded.model) == torch.bfloat16
    assert_equal_bits(logits_of(loaded.model, ids, 7, 5), logits_of(whole, ids, 7, 5))


@pytest.mark.parametrize("more", [{"adapter": True}, {"device_map": {"": "cpu"}}])
def test_a_model_with_an_adapter_or_a_device_map_computes_in_float32_too(
    more: dict[str, Any], tiny_folder: Path, tmp_path: Path
) -> None:
    if "adapter" in more:
        more = {"adapter": make_adapter(tiny_folder, tmp_path / "adapter")}
    narrow = tt.load_model(tiny_folder, dtype="bfloat16", compute_dtype="float32", **more).model
    whole = tt.load_model(tiny_folder, dtype="bfloat16", **more).model.float()
    plain = tt.load_model(tiny_folder, dtype="bfloat16").model.float()
    ids = random_ids(30, seed=1)
    given = logits_of(narrow, ids, 7, 5)

    assert_equal_bits(given, logits_of(whole, ids, 7, 5))
    assert torch.equal(given[0], logits_of(plain, ids, 7, 5)[0]) == ("adapter" not in more)


@pytest.mark.parametrize("wide", ["float32", "", None])
def test_equal_dtypes_and_none_need_no_cast(wide: str | None, tiny_folder: Path) -> None:
    loaded = tt.load_model(tiny_folder, dtype="float32", compute_dtype=wide)

    assert loaded.model.dtype == weights_dtype(loaded.model) == torch.float32


@pytest.mark.parametrize(
    ("dtype", "wide", "message"),
    [
        ("float32", "bfloat16", "float32 weights cannot be computed with in bfloat16"),
        ("float32", "float16", "float32 weights cannot be computed with in float16"),
        ("bfloat16", "float16", "bfloat16 weights cannot be computed with in float16"),
        ("auto", "float16", "float32 weights cannot be computed with in float16"),
        ("bfloat16", "float31", "'float31' is not a floating-point dtype of torch"),
        ("bfloat16", "int32", "'int32' is not a floating-point dtype of torch"),
        ("bfloat16", "nn", "'nn' is not a floating-point dtype of torch"),
    ],
)
def test_a_dtype_that_is_not_wider_is_rejected(
    dtype: str, wide: str, message: str, tiny_folder: Path
) -> None:
    with pytest.raises(tt.ModelError, match=message) as caught:
        tt.load_model(tiny_folder, dtype=dtype, compute_dtype=wide)

    assert "\n" not in str(caught.value)


def test_quantized_weights_are_rejected(make_lm: Callable[..., tt.LoadedModel]) -> None:
    model = make_lm("llama").model
    model.config.quantization_config = {"quant_method": "torchao"}
    with pytest.raises(tt.ModelError, match="quantized weights cannot be computed with in float32"):
        compute_in(model, "float32")
