"""Quantized models: recorded, loaded again, resumed and verified, on the CPU."""

import importlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import tokentape as tt
from tests.generation.cold_runs import GREEDY
from tests.made_models import make_adapter
from tokentape.generation.fingerprints.weights import hash_weights
from tokentape.generation.hf.packed_tensors import held_tensors
from tokentape.generation.hf.quanto import unpack_without_compiling
from tokentape.generation.models.recorded_model import load_as_recorded
from tokentape.store import DatabaseStore

Q_PROJ = "model.layers.1.self_attn.q_proj"
QUANTO = ("int8", "int4")
TORCHAO = ("torchao int8", "torchao int4")
SAMPLED = {"do_sample": True, "temperature": 0.9, "max_new_tokens": 8}


def config_of(name: str) -> Any:
    """Return the argument of `load_model` for a scheme. Skip the test if it is not installed."""
    if name in QUANTO:
        pytest.importorskip("optimum.quanto", reason="the extra `quantization` has it")
        return name
    api: Any = pytest.importorskip("torchao.quantization", reason="the extra `quantization` has it")
    from transformers import TorchAoConfig

    schemes = {
        "torchao int8": lambda: api.Int8WeightOnlyConfig(),
        "torchao int4": lambda: api.IntxWeightOnlyConfig(
            weight_dtype=torch.int4, granularity=api.PerGroup(32)
        ),
        "torchao int8 by int8": lambda: api.Int8DynamicActivationInt8WeightConfig(),
    }
    return TorchAoConfig(schemes[name]())


@pytest.fixture
def load(tiny_folder: Path) -> Callable[..., tt.LoadedModel]:
    """Return a function that loads the tiny model with a quantization scheme."""

    def quantized(name: str, **keywords: Any) -> tt.LoadedModel:
        return tt.load_model(tiny_folder, quantization=config_of(name), **keywords)

    return quantized


def load_again(recording: tt.Recording) -> tt.LoadedModel:
    started = recording.started()
    return load_as_recorded(started.model, started)


def weight_of(lm: tt.LoadedModel) -> torch.Tensor:
    weight: torch.Tensor = lm.model.get_submodule(Q_PROJ).weight
    return weight


def packed_parts(lm: tt.LoadedModel) -> list[tuple[str, torch.Tensor]]:
    """Return the tensors that hold the bytes of a packed weight, with their names."""
    return [(f"{Q_PROJ}.weight{name}", each) for name, each in held_tensors(weight_of(lm))]


def call(lm: tt.LoadedModel, tool: str, **arguments: Any) -> Any:
    """Return the full result of a tool that looks at a model."""
    return json.loads(tt.default_tools(lm).call(tool, arguments).payload)


def record(lm: tt.LoadedModel, store: DatabaseStore, turns: int = 3) -> tt.Recording:
    with tt.Investigation(lm, store=store, name="packed", system_prompt="Hi.", seed=4) as run:
        for number in range(turns):
            run.chat(f"Number {number}?", **(SAMPLED if number % 2 else GREEDY))
    return store.recording(run.run_id)


@pytest.mark.parametrize("name", [*QUANTO, *TORCHAO])
def test_a_quantized_run_is_loaded_again_and_verified(
    name: str, load: Callable[..., tt.LoadedModel], store: DatabaseStore
) -> None:
    lm = load(name)
    recording = record(lm, store)
    again = load_again(recording)

    method = recording.started().loading["quantization"]["quant_method"]
    assert method == ("torchao" if name in TORCHAO else "quanto")
    assert again.loading == lm.loading == recording.started().loading
    assert again.identity.weights == lm.identity.weights
    assert tt.verify(recording, again).verdict is tt.Verdict.VERIFIED
    assert tt.regenerate(recording, again).verdict is tt.Verdict.EXACT
    assert [turn.cache.reason for turn in recording.turns() if turn.cache] == ["extends"] * 3


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", [*QUANTO, *TORCHAO, "torchao int8 by int8"])
def test_a_quantized_run_is_retraced_exactly(
    name: str, dtype: str, load: Callable[..., tt.LoadedModel], store: DatabaseStore
) -> None:
    recording = record(load(name, dtype=dtype), store)

    lm = load_again(recording)
    assert tt.retrace(recording, lm).verdict is tt.Verdict.EXACT
    with torch.no_grad():
        packed_parts(lm)[0][1].view(-1)[3].add_(1)
    assert not tt.retrace(recording, lm).passes


@pytest.mark.parametrize("name", [*QUANTO, *TORCHAO])
def test_every_part_of_a_packed_weight_is_fingerprinted(
    name: str, load: Callable[..., tt.LoadedModel], store: DatabaseStore
) -> None:
    lm = load(name)
    recording = record(lm, store, turns=1)
    parts = packed_parts(lm)
    assert len(parts) >= 2
    for part, tensor in parts:
        before = tensor.clone()
        with torch.no_grad():
            tensor.view(-1)[3].add_(1)
        report = tt.verify(recording, lm)
        with torch.no_grad():
            tensor.copy_(before)

        (weights,) = [each for each in report.differences if each.field == "weights"]
        assert report.verdict is tt.Verdict.INCOMPARABLE
        assert weights.detail == f"1 of {len(hash_weights(lm.model).tensors)} tensors: {part}"
    assert tt.verify(recording, lm).verdict is tt.Verdict.VERIFIED


@pytest.mark.parametrize("name", [*QUANTO, *TORCHAO])
def test_a_packed_byte_that_changes_between_turns_makes_the_cache_useless(
    name: str, load: Callable[..., tt.LoadedModel], store: DatabaseStore
) -> None:
    lm = load(name)
    with tt.Investigation(lm, store=store, name="packed", system_prompt="Hi.") as run:
        run.chat("One?", **GREEDY)
        with torch.no_grad():
            packed_parts(lm)[0][1].view(-1)[5].add_(1)
        reply = run.chat("Two?", **GREEDY)

    assert reply.cache.reason == "key_changed:weights"
    assert reply.cache.reused_tokens == 0


@pytest.mark.parametrize("name", [*QUANTO, *TORCHAO])
def test_statistics_are_those_of_the_dequantized_numbers(
    name: str, load: Callable[..., tt.LoadedModel]
) -> None:
    lm = load(name)
    found = call(lm, "get_weight_statistics", layer_name=Q_PROJ, compact=False)
    numbers = weight_of(lm).dequantize().detach()
    packed = lm.model.num_parameters() - sum(
        each.numel() for each in lm.model.parameters() if type(each) is torch.nn.Parameter
    )

    assert found["shape"] == list(numbers.shape)
    assert found["mean"] == pytest.approx(numbers.mean().item(), rel=1e-4)
    assert found["max"] == pytest.approx(numbers.max().item())
    assert type(weight_of(lm)).__name__ in found["quantised"]
    assert "tied_to" not in found
    summary = call(lm, "get_architecture_summary")
    assert summary["quantized_parameters"] == {type(weight_of(lm)).__name__: packed}
    values = call(lm, "get_singular_values", layer_name=Q_PROJ, top=1)
    largest = torch.linalg.matrix_norm(numbers, 2).item()
    assert values["singular_values"][0] == pytest.approx(largest, rel=1e-4)


def test_the_scheme_of_a_packed_weight_is_told(load: Callable[..., tt.LoadedModel]) -> None:
    lm = load("int4")
    names = [Q_PROJ, "lm_head"]
    packed, plain = call(lm, "get_weight_statistics", layer_name=names, compact=False)

    assert "qint4" in packed["quantised"]
    assert "quantised" not in plain


@pytest.mark.parametrize("name", ["int4", "torchao int8"])
def test_a_quantized_run_is_resumed_in_its_turn_with_the_same_tokens(
    name: str, load: Callable[..., tt.LoadedModel], store: DatabaseStore
) -> None:
    whole = record(load(name), store)
    count = len(whole.turns()[1].reply_ids)

    def stop(token_id: int, logits: torch.Tensor) -> None:
        seen.append(token_id)
        if len(seen) == count - 3:
            raise KeyboardInterrupt

    seen: list[int] = []
    run = tt.Investigation(load(name), store=store, name="cut", system_prompt="Hi.", seed=4)
    with pytest.raises(KeyboardInterrupt), run:
        run.chat("Number 0?", **GREEDY)
        run.chat("Number 1?", callback=stop, **SAMPLED)
    lm = load_again(store.recording(run.run_id))
    with tt.Investigation.resume(store, run.run_id, lm) as resumed:
        resumed.chat("Number 2?", **GREEDY)

    recording = store.recording(run.run_id)
    assert [turn.reply_ids for turn in recording.turns()] == [
        turn.reply_ids for turn in whole.turns()
    ]
    assert tt.verify(recording, load_again(recording)).verdict is tt.Verdict.VERIFIED


def test_another_quantization_than_recorded_is_named(
    load: Callable[..., tt.LoadedModel], tiny_folder: Path, store: DatabaseStore
) -> None:
    recording = record(load("int8"), store, turns=1)

    for other, now in ((load("int4"), "quanto int4"), (tt.load_model(tiny_folder), "none")):
        for replay in (tt.verify, tt.retrace):
            report = replay(recording, other)
            assert report.verdict is tt.Verdict.INCOMPARABLE
            assert report.causes[0].name == "weights"
            assert f"quantization quanto int8 then, {now} now" in report.causes[0].sentence


@pytest.mark.parametrize("name", [*QUANTO, *TORCHAO])
def test_an_adapter_acts_on_a_quantized_model(
    name: str,
    load: Callable[..., tt.LoadedModel],
    tiny_folder: Path,
    tmp_path: Path,
    store: DatabaseStore,
) -> None:
    adapter = make_adapter(tiny_folder, tmp_path / "adapter")
    other = make_adapter(tiny_folder, tmp_path / "other", seed=1)
    recording = record(load(name, adapter=adapter), store, turns=2)

    started = recording.started()
    assert set(started.loading) == {"quantization", "adapter"}
    assert tt.verify(recording, load_again(recording)).verdict is tt.Verdict.VERIFIED
    assert tt.retrace(recording, load_again(recording)).verdict is tt.Verdict.EXACT
    changed = replace(started, loading={**started.loading, "adapter": str(other)})
    report = tt.verify(recording, load_as_recorded(started.model, changed))
    (weights,) = [each for each in report.differences if each.field == "weights"]
    assert report.verdict is tt.Verdict.INCOMPARABLE
    assert "lora_A" in weights.detail


def test_no_floor_is_built_in_where_activations_are_rounded(
    load: Callable[..., tt.LoadedModel], store: DatabaseStore
) -> None:
    """A difference in the last bit becomes a step of int8, so an honest run is not `diverged`."""
    recording = record(load("torchao int8 by int8"), store, turns=2)
    lm = load_again(recording)

    report = tt.verify(recording, lm)
    assert report.verdict is tt.Verdict.INCOMPARABLE
    assert "no noise floor is known" in report.reason
    assert tt.verify(recording, lm, floor=tt.calibrate(recording, lm)).passes


@pytest.mark.parametrize("bits", [2, 4])
def test_quanto_unpacks_without_compiling_an_extension(
    bits: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    cpp = pytest.importorskip("optimum.quanto.library.extensions.cpp")
    monkeypatch.setattr(cpp.ext, "_lib", None)
    monkeypatch.setattr("torch.utils.cpp_extension.load", lambda **given: pytest.fail("compiled"))
    numbers = torch.arange(8 * 64, dtype=torch.int64).reshape(8, 64) % 2**bits
    numbers = numbers.flip(0).to(torch.uint8)
    packed = importlib.import_module("optimum.quanto.tensor.packed").pack_weights(numbers, bits)

    unpack_without_compiling()

    unpacked = torch.ops.quanto.unpack(packed, bits)
    assert packed.numel() == numbers.numel() * bits // 8
    assert torch.equal(unpacked, numbers)
    assert unpacked.dtype == torch.uint8


def test_a_mapping_and_a_config_are_the_same_as_the_short_name(
    load: Callable[..., tt.LoadedModel], tiny_folder: Path
) -> None:
    from transformers import QuantoConfig

    short = load("int8")
    for given in ({"quant_method": "quanto", "weights": "int8"}, QuantoConfig(weights="int8")):
        same = tt.load_model(tiny_folder, quantization=given)
        assert same.loading == short.loading
        assert same.identity.weights == short.identity.weights
