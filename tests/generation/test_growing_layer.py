"""A layer that grows in place holds the same bits as one that concatenates."""

import copy
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

import tokentape as tt
from benchmarks.tiny_models import random_ids
from tokentape.generation import hf
from tokentape.generation.hf import GrowingLayer

FORWARDS = (100, 40, 1, 1, 60, 1, 1, 200, 1)


@pytest.mark.parametrize("kernel", ["sdpa", "eager"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", ["llama", "qwen3", "gpt2"])
def test_logits_have_the_same_bits(
    family: str, dtype: torch.dtype, kernel: str, make_lm: Callable[..., tt.LoadedModel]
) -> None:
    model = make_lm(family, dtype=dtype).model
    model.set_attn_implementation(kernel)
    ids = torch.tensor([random_ids(sum(FORWARDS), 3)])
    copying, growing = DynamicCache(config=model.config), hf.new_cache(model)
    assert type(copying.layers[0]) is DynamicLayer
    assert type(growing.layers[0]) is GrowingLayer
    start = 0
    for count in FORWARDS:
        with torch.no_grad():
            one, other = (
                model(ids[:, start : start + count], **hf.cache_argument(model, cache)).logits
                for cache in (copying, growing)
            )
        start += count
        assert torch.equal(one, other)


def states(count: int, value: float) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.full((1, 2, count, 4), value), torch.full((1, 2, count, 4), -value)


def values_of(layer: GrowingLayer) -> list[float]:
    assert layer.values is not None
    assert layer.keys is not None
    assert torch.equal(layer.keys, -layer.values)
    return layer.keys[0, 0, :, 0].tolist()


def test_a_fork_shares_its_buffer_until_both_are_appended_to() -> None:
    layer = GrowingLayer()
    layer.update(*states(3, 1.0))
    twin = copy.copy(layer)
    storage = layer.keys.data_ptr()
    layer.update(*states(2, 2.0))
    assert layer.keys.data_ptr() == storage, "the first to append writes in place"
    twin.update(*states(1, 3.0))

    assert values_of(layer) == [1.0] * 3 + [2.0] * 2
    assert values_of(twin) == [1.0] * 3 + [3.0]
    assert twin.keys.data_ptr() != storage


def test_cropped_tokens_of_an_unshared_buffer_are_overwritten_in_place() -> None:
    layer = GrowingLayer()
    layer.update(*states(5, 1.0))
    storage = layer.keys.data_ptr()
    layer.crop(-3)
    layer.update(*states(1, 2.0))

    assert values_of(layer) == [1.0, 1.0, 2.0]
    assert layer.keys.data_ptr() == storage


def test_appending_a_token_does_not_copy_the_history() -> None:
    layer = GrowingLayer()
    layer.update(*states(1000, 1.0))
    storages = set()
    for _ in range(120):
        layer.update(*states(1, 2.0))
        storages.add(layer.keys.data_ptr())

    assert len(storages) == 1


def test_a_deep_copy_shares_nothing() -> None:
    layer = GrowingLayer()
    layer.update(*states(3, 1.0))
    twin = copy.deepcopy(layer)
    twin.update(*states(1, 2.0))
    layer.update(*states(1, 3.0))

    assert values_of(layer) == [1.0] * 3 + [3.0]
    assert values_of(twin) == [1.0] * 3 + [2.0]


def test_tensors_that_transformers_assigned_are_appended_to() -> None:
    layer = GrowingLayer()
    layer.update(*states(3, 1.0))
    layer.reorder_cache(torch.tensor([0]))
    layer.update(*states(1, 2.0))

    assert values_of(layer) == [1.0, 1.0, 1.0, 2.0]


def test_a_tensor_recorded_by_autograd_is_not_written_to() -> None:
    layer = GrowingLayer()
    keys, values = (each.requires_grad_() for each in states(2, 1.0))
    layer.update(keys, values)
    layer.update(*(each.requires_grad_() for each in states(1, 2.0)))
    layer.keys.sum().backward()

    assert keys.grad is not None
    assert values_of(layer) == [1.0, 1.0, 2.0]


operations = st.lists(
    st.tuples(st.sampled_from(["append", "crop", "fork", "compact"]), st.integers(0, 3)),
    max_size=25,
)


@given(operations=operations)
@settings(max_examples=200)
def test_forks_are_independent_after_operations_in_any_order(
    operations: list[tuple[str, int]],
) -> None:
    forks: list[tuple[GrowingLayer, list[float]]] = [(GrowingLayer(), [])]
    for number, (operation, which) in enumerate(operations):
        layer, expected = forks[which % len(forks)]
        if operation == "append":
            layer.update(*states(1 + which * 70, float(number)))
            expected += [float(number)] * (1 + which * 70)
        elif operation == "crop" and len(expected) > 1:
            cut = min(1 + which * 50, len(expected) - 1)
            layer.crop(-cut)
            del expected[-cut:]
        elif operation == "fork" and len(forks) < 4:
            forks.append((copy.copy(layer), list(expected)))
        elif operation == "compact":
            layer.compact()
        for each, values in forks:
            if values:
                assert values_of(each) == values
