"""Statistics of weights are those that numpy finds, of every kind of tensor, in little memory."""

import json
import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.ao.nn.quantized.dynamic import Linear as DynamicLinear

import tokentape as tt
from tokentape.generation.fingerprints import tensor_sha256
from tokentape.generation.introspection import WeightInspector
from tokentape.generation.introspection.tensor_chunks import CHUNK_NUMBERS
from tokentape.generation.introspection.weights import COMPACT_FIELDS

FULL_FIELDS = (
    *COMPACT_FIELDS,
    "median",
    "abs_mean",
    "zeros_percentage",
    "near_zero_percentage",
    "l1_norm",
    "histogram",
    "percentiles",
    "dtype",
    "computed_in",
)
PERCENTS = (5, 25, 50, 75, 95)


def holding(tensor: torch.Tensor) -> torch.nn.Module:
    """A module with one weight, `w`."""
    module = torch.nn.Module()
    module.register_parameter("w", torch.nn.Parameter(tensor, requires_grad=False))
    return module


def statistics_of(tensor: torch.Tensor, compact: bool = False) -> dict[str, Any]:
    found = WeightInspector(holding(tensor)).get_weight_statistics("w", compact=compact)
    assert isinstance(found, dict)
    json.dumps(found, allow_nan=False)
    return found


def assert_equal_to_numpy(found: dict[str, Any], values: np.ndarray[Any, Any]) -> None:
    flat = values.reshape(-1).astype(np.float64)
    expected = {
        "mean": flat.mean(),
        "std": flat.std(ddof=1) if flat.size > 1 else 0.0,
        "min": flat.min(),
        "max": flat.max(),
        "l2_norm": np.linalg.norm(flat),
        "median": np.median(flat),
        "abs_mean": np.abs(flat).mean(),
        "zeros_percentage": 100.0 * (flat == 0).mean(),
        "near_zero_percentage": 100.0 * (np.abs(flat) < 1e-6).mean(),
        "l1_norm": np.abs(flat).sum(),
    }
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, rel=1e-6, abs=1e-12), name
    percentiles = dict(zip(map(str, PERCENTS), np.percentile(flat, PERCENTS), strict=True))
    assert found["percentiles"] == pytest.approx(percentiles, rel=1e-6, abs=1e-12)
    counts, edges = np.histogram(flat, bins=50)
    assert found["histogram"]["edges"] == pytest.approx(list(edges), rel=1e-9, abs=1e-12)
    assert found["histogram"]["bins"] == 50
    assert (
        found["histogram"]["counts"] == np.histogram(flat, found["histogram"]["edges"])[0].tolist()
    )
    assert sum(found["histogram"]["counts"]) == sum(counts)


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


TENSORS: dict[str, Callable[[], torch.Tensor]] = {
    "several chunks": lambda: noise(CHUNK_NUMBERS + 77, 3),
    "far from zero": lambda: noise(1000, 70) * 1e-3 + 1000.0,
    "transposed": lambda: noise(900, 1300).T,
    "a strided view": lambda: noise(1200, 1300)[:, ::2],
    "one long row": lambda: noise(1, 2 * CHUNK_NUMBERS)[:, ::2],
    "one number": lambda: torch.tensor([3.25]),
    "a scalar": lambda: torch.tensor(-2.0),
    "all the same": lambda: torch.full((40, 30), 0.1),
    "zeros of both signs": lambda: torch.tensor([0.0, -0.0, 0.0, -0.0, 1e-7, -1.0]),
    "ties on the edges": lambda: torch.arange(-50, 51).float().repeat(40),
    "huge and tiny": lambda: torch.tensor([3e38, -1e38, 1e-45, -1e-40, 0.0, 7.0]),
    "two numbers": lambda: torch.tensor([-1.0, 2.0]),
}


@pytest.mark.parametrize("kind", TENSORS)
def test_full_statistics_are_those_of_numpy(kind: str) -> None:
    tensor = TENSORS[kind]()
    found = statistics_of(tensor)

    assert tuple(found) == FULL_FIELDS
    assert found["shape"] == list(tensor.shape)
    assert found["num_parameters"] == tensor.numel()
    assert_equal_to_numpy(found, tensor.numpy())


@pytest.mark.parametrize(
    "dtype",
    [torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2, torch.float64],
)
def test_every_type_of_number_is_computed_in_float32(dtype: torch.dtype) -> None:
    tensor = noise(600, 1000).to(dtype)
    found = statistics_of(tensor)

    assert_equal_to_numpy(found, tensor.float().numpy())
    assert found["computed_in"] == "float32"
    assert found["dtype"] == str(tensor.dtype).removeprefix("torch.")


def test_compact_has_these_fields_to_four_digits() -> None:
    tensor = noise(300, 40)
    compact, full = statistics_of(tensor, compact=True), statistics_of(tensor)

    assert tuple(compact) == COMPACT_FIELDS
    for name in ("mean", "std", "min", "max", "l2_norm"):
        assert compact[name] == float(f"{full[name]:.4g}")


def peak_bytes() -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def test_a_large_tensor_is_never_copied() -> None:
    tensor = noise(8192, 8192)
    inspector = WeightInspector(holding(tensor))
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # forget the last peak
    except OSError:
        pytest.skip("this system does not tell the peak of a process")
    before = peak_bytes()
    found = inspector.get_weight_statistics("w")
    extra = peak_bytes() - before
    flat = tensor.numpy().reshape(-1)

    assert extra < 64 * 1024**2
    assert isinstance(found, dict)
    assert found["num_parameters"] == 64 * 1024**2
    assert found["mean"] == pytest.approx(flat.mean(dtype=np.float64), rel=1e-6)
    assert found["std"] == pytest.approx(flat.std(ddof=1, dtype=np.float64), rel=1e-6)
    expected = np.percentile(flat, PERCENTS)
    assert list(found["percentiles"].values()) == pytest.approx(expected.tolist(), rel=1e-6)


def test_values_that_are_not_finite_are_counted_and_left_out() -> None:
    tensor = noise(50, 20)
    tensor[0, :5] = torch.tensor([math.nan, math.inf, -math.inf, math.nan, math.nan])
    found, compact = statistics_of(tensor), statistics_of(tensor, compact=True)

    assert found["not_finite"] == compact["not_finite"] == 5
    assert_equal_to_numpy(found, tensor[torch.isfinite(tensor)].numpy())


@pytest.mark.parametrize("tensor", [torch.empty(0, 7), torch.full((3, 2), math.nan)])
def test_statistics_of_no_values_are_null(tensor: torch.Tensor) -> None:
    found = statistics_of(tensor)

    assert found["num_parameters"] == tensor.numel()
    assert [found[name] for name in ("mean", "std", "min", "max", "median")] == [None] * 5
    assert found["histogram"]["counts"] == []
    assert found.get("not_finite", 0) == tensor.numel()


def test_a_tensor_without_values_is_refused() -> None:
    with pytest.raises(tt.ToolError, match="w is on the meta device and has no values"):
        statistics_of(torch.empty(4, 4, device="meta"))


def test_complex_numbers_are_refused() -> None:
    with pytest.raises(tt.ToolError, match="w has no real dense values"):
        statistics_of(torch.ones(3, dtype=torch.complex64))


def test_tied_weights_are_found_by_both_names(make_lm: Callable[..., tt.LoadedModel]) -> None:
    lm = make_lm("llama", tie_word_embeddings=True)
    inspector = WeightInspector(lm.model)
    names = ["model.embed_tokens.weight", "lm_head.weight"]
    both = inspector.get_weight_statistics(names)

    assert [each["tied_to"] for each in both] == [[names[1]], [names[0]]]
    assert both[0]["l2_norm"] == both[1]["l2_norm"]
    assert "tied_to" not in inspector.get_weight_statistics("model.norm")


def test_tensors_that_share_memory_without_being_one_are_tied() -> None:
    module = holding(noise(4, 4))
    module.register_buffer("twin", module.w.detach().view(4, 4))
    found = WeightInspector(module).get_weight_statistics("twin")

    assert found["tied_to"] == ["w"]  # type: ignore[call-overload]


def test_buffers_are_found(lm: tt.LoadedModel) -> None:
    found = WeightInspector(lm.model).get_weight_statistics("model.rotary_emb.inv_freq")

    assert found["max"] == 1.0  # type: ignore[call-overload]


def test_a_replaced_weight_is_read_again(lm: tt.LoadedModel) -> None:
    inspector = WeightInspector(lm.model)
    before = inspector.describe("lm_head")
    with torch.no_grad():
        lm.model.lm_head.weight.mul_(2.0)
    after = inspector.describe("lm_head")
    assert before["sha256"] != after["sha256"]
    lm.model.lm_head.weight = torch.nn.Parameter(torch.ones(272, 64))

    assert inspector.describe("lm_head")["sha256"] == tensor_sha256(torch.ones(272, 64))
    assert inspector.get_weight_statistics("lm_head", compact=True)["mean"] == 1.0  # type: ignore[call-overload]


def test_a_write_that_torch_does_not_count_changes_the_sha256(lm: tt.LoadedModel) -> None:
    inspector = WeightInspector(lm.model)
    before = inspector.describe("lm_head")["sha256"]
    lm.model.lm_head.weight.data.mul_(2.0)

    assert inspector.describe("lm_head")["sha256"] != before


def test_dynamically_quantized_layers_are_read_row_block_by_row_block() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torch.ao.quantization import quantize_dynamic

        torch.manual_seed(0)
        model = quantize_dynamic(
            torch.nn.Sequential(torch.nn.Linear(900, 1200)), {torch.nn.Linear}, dtype=torch.qint8
        )
    assert isinstance(model[0], DynamicLinear)
    found = WeightInspector(model).get_weight_statistics("0")

    assert isinstance(found, dict)
    assert (found["dtype"], found["quantised"]) == ("qint8", "per_tensor_affine")
    assert_equal_to_numpy(found, model[0].weight().dequantize().numpy())
    assert len(WeightInspector(model).describe("0.weight")["sha256"]) == 64


def test_scales_of_rows_are_applied() -> None:
    rows = 1000
    tensor = torch.quantize_per_channel(
        noise(rows, 800), torch.rand(rows) * 0.1 + 0.01, torch.zeros(rows).long(), 0, torch.qint8
    )
    module = torch.nn.Module()
    module.register_buffer("w", tensor)
    found = WeightInspector(module).get_weight_statistics("w")

    assert isinstance(found, dict)
    assert_equal_to_numpy(found, tensor.dequantize().numpy())


class Packed(torch.nn.Parameter):
    """A packed tensor as in quantization libraries: bytes of another shape and `dequantize`."""

    def dequantize(self) -> torch.Tensor:
        return self.data.reshape(2, -1).float() / 100.0 - 1.0


def test_a_tensor_with_its_own_dequantize_is_unpacked() -> None:
    module = torch.nn.Module()
    packed = Packed(torch.arange(200, dtype=torch.uint8)[:, None], requires_grad=False)
    module.register_parameter("w", packed)
    inspector = WeightInspector(module)
    found = inspector.get_weight_statistics("w")

    assert isinstance(found, dict)
    assert (found["dtype"], found["quantised"], found["shape"]) == ("uint8", "Packed", [2, 100])
    assert found["num_parameters"] == 200
    assert_equal_to_numpy(found, packed.dequantize().numpy())
    assert inspector.describe("w")["sha256"] == tensor_sha256(packed.dequantize())


def test_packed_bytes_are_not_read_as_values() -> None:
    module = holding(torch.zeros(8, 1, dtype=torch.uint8))
    module.w.quant_state = "of a library that keeps it elsewhere"

    with pytest.raises(tt.ToolError, match="does not say how to unpack it"):
        WeightInspector(module).get_weight_statistics("w")


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("model.layer.1.mlp.up_proj", r"nearest are .*model\.layers\.1\.mlp\.up_proj\.weight"),
        (
            "model.layers.1.mlp",
            r"is not a weight, but has 3: model\.layers\.1\.mlp\.gate_proj\.weight",
        ),
        ("model.layers", "is not a weight, but has 27: .* and 15 more"),
        ("", "there is no layer ''"),
        (3, "there is no layer 3"),
    ],
)
def test_an_unknown_layer_is_rejected_with_the_weights_below_it(
    lm: tt.LoadedModel, name: Any, complaint: str
) -> None:
    with pytest.raises(tt.ToolError, match=complaint):
        WeightInspector(lm.model).get_weight_statistics([name])
