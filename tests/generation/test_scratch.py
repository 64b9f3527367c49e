"""Large casts use the same memory again, and never while a tensor refers to it."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from benchmarks.tiny_models import random_ids
from tests.generation.narrow_models import assert_equal_bits, logits_of, pair
from tokentape.generation import hf
from tokentape.generation.hf import layer_cast, scratch


def test_scratch_memory_is_used_again_once_no_tensor_refers_to_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(scratch, "_BYTES_MIN", 0)
    memory, weight = scratch.Scratch(), torch.randn(4, 6).bfloat16()
    with torch.no_grad():
        first = memory.cast(weight, torch.float32)
        address, view = first.data_ptr(), first.t()[1:]
        while_used = memory.cast(weight + 1, torch.float32)
        del first
        while_viewed = memory.cast(weight + 1, torch.float32)

        assert torch.equal(view, weight.float().t()[1:])
        assert address not in (while_used.data_ptr(), while_viewed.data_ptr())
        del view
        assert memory.cast(weight[:3], torch.float32).data_ptr() == address
        larger = memory.cast(torch.cat([weight, weight]), torch.float32)
    recorded = [memory.cast(weight, torch.float32) for _ in range(2)]

    assert torch.equal(larger, torch.cat([weight, weight]).float())
    assert len({larger.data_ptr(), *(each.data_ptr() for each in recorded)}) == 3


def test_scratch_memory_is_freed_after_a_forward_and_after_decoding(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(scratch, "_BYTES_MIN", 0)
    narrow, _ = pair("llama")
    ids = torch.tensor([[3, 4]])
    memory = layer_cast._forwards.scratch
    with torch.no_grad():
        narrow(ids)
        assert memory._storage is None
        with hf.decoding(narrow):
            narrow(ids)
            assert memory._storage is not None
    assert memory._storage is None


def test_threads_do_not_share_scratch_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scratch, "_BYTES_MIN", 0)
    narrow, whole = pair("llama")
    prompts = [random_ids(20, seed) for seed in range(6)]
    with ThreadPoolExecutor(3) as pool:
        given = list(pool.map(lambda ids: logits_of(narrow, ids, 7, 5), prompts))

    for ids, seen in zip(prompts, given, strict=True):
        assert_equal_bits(seen, logits_of(whole, ids, 7, 5))
