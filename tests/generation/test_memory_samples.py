"""The memory that a turn used is recorded."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

import tokentape as tt
from tokentape.generation.engine.memory import MemoryWatch
from tokentape.recorder.codec import decode_fields
from tokentape.recorder.events import MemorySampled
from tokentape.store import DatabaseStore

CUDA = torch.device("cuda")


@pytest.fixture
def fake_cuda(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Replace what torch says of the memory of a GPU; return its statistics, to change."""
    stats: dict[str, Any] = {"inactive_split_bytes.all.current": 300}
    for name, value in (
        ("memory_allocated", 1000),
        ("max_memory_allocated", 2000),
        ("memory_reserved", 4000),
    ):
        monkeypatch.setattr(torch.cuda, name, lambda device, value=value: value)
    monkeypatch.setattr(torch.cuda, "memory_stats", lambda device: stats)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: None)
    return stats


def test_on_a_gpu_reserved_and_fragmented_memory_are_recorded(fake_cuda: dict[str, Any]) -> None:
    sampled = MemoryWatch.begin(CUDA).sampled(1, kv_bytes=10)

    assert (sampled.device_bytes, sampled.device_peak_bytes) == (1000, 2000)
    assert (sampled.device_reserved_bytes, sampled.device_fragmented_bytes) == (4000, 300)


def test_an_allocator_without_blocks_has_no_fragmented_memory(fake_cuda: dict[str, Any]) -> None:
    fake_cuda.clear()
    sampled = MemoryWatch.begin(CUDA).sampled(1, kv_bytes=10)

    assert (sampled.device_reserved_bytes, sampled.device_fragmented_bytes) == (4000, None)


def test_without_a_gpu_they_are_none(
    lm: tt.LoadedModel, store: DatabaseStore, record: Callable[..., tt.Recording]
) -> None:
    events = [each.event for each in record(lm, store).events()]
    samples = [each for each in events if isinstance(each, MemorySampled)]

    assert samples
    assert {each.device_reserved_bytes for each in samples} == {None}
    assert {each.device_fragmented_bytes for each in samples} == {None}


def test_what_0_1_0_recorded_says_nothing_of_the_allocator() -> None:
    old = {
        "turn": 3,
        "kv_bytes": 5,
        "process_bytes": 6,
        "transient_bytes": None,
        "device_bytes": 7,
        "device_peak_bytes": 8,
    }
    event = decode_fields("MemorySampled", 1, old)

    assert isinstance(event, MemorySampled)
    assert (event.device_peak_bytes, event.device_reserved_bytes) == (8, None)
    assert event.device_fragmented_bytes is None
