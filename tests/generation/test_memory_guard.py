"""A turn that needs more memory than is free is warned of, before it begins."""

import time
import warnings
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

import pytest
import torch

import tokentape as tt
from tokentape.generation.cache.prefix_cache import CacheLease
from tokentape.generation.engine.memory_guard import MemoryGuard
from tokentape.generation.errors import LowMemoryWarning
from tokentape.generation.models import memory_check
from tokentape.recorder.events import MemorySampled, SystemPromptCached
from tokentape.store import DatabaseStore

NEEDED = 20_000_000
"""Far more than the turns of the tiny model need, and far less than a machine has."""


def warned(
    lm: tt.LoadedModel,
    store: DatabaseStore,
    monkeypatch: pytest.MonkeyPatch,
    free: Sequence[int],
) -> list[str]:
    """Return the warnings of a run whose turns find these numbers of bytes free."""
    readings = iter(free)
    monkeypatch.setattr(memory_check, "usable_bytes", lambda device: next(readings))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", LowMemoryWarning)
        with tt.Investigation(lm, store=store, name="low", system_prompt="Be brief.") as run:
            for _ in free:
                run.chat("Hello", max_new_tokens=4)
    return [str(each.message) for each in caught if each.category is LowMemoryWarning]


def test_enough_memory_gives_no_warning(
    lm: tt.LoadedModel, store: DatabaseStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert warned(lm, store, monkeypatch, [NEEDED] * 3) == []


def test_the_warning_says_what_is_needed_what_is_free_and_what_to_do(
    lm: tt.LoadedModel, store: DatabaseStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    (text,) = warned(lm, store, monkeypatch, [NEEDED, 100_000])

    assert text.startswith("turn 2 may run out of memory: it needs 0.")
    assert "0.1 MB are free on cpu" in text
    assert "lower max_new_tokens, prefill_chunk_tokens" in text
    assert "tokentape plan" in text


def test_it_warns_once_and_again_when_it_gets_worse(
    lm: tt.LoadedModel, store: DatabaseStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What is missing: 10 MB and a little more, 12 MB, nothing, 25 MB.
    free = [-10_000_000, -12_000_000, NEEDED, -25_000_000]
    texts = warned(lm, store, monkeypatch, free)

    assert [text.split()[1] for text in texts] == ["1", "4"]


def test_the_command_line_shows_it_as_one_line(
    tiny_folder: Path,
    tmp_path: Path,
    cli: Callable[..., tuple[int, str, str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(memory_check, "usable_bytes", lambda device: -10_000_000)
    plan = tmp_path / "plan.yaml"
    plan.write_text("name: p\nsystem_prompt: Be brief.\ntasks: [{title: t, turns: [Hello, Well]}]")
    code, _, err = cli(
        "run", str(plan), "--model", str(tiny_folder), "--store", str(tmp_path / "runs.db")
    )
    lines = [line for line in err.splitlines() if "memory" in line]

    assert code == 0
    assert len(lines) == 1
    assert lines[0].startswith("tokentape: warning: turn 1 may run out of memory")


def test_the_estimate_is_enough_for_what_a_turn_used(
    make_lm: Callable[..., tt.LoadedModel], store: DatabaseStore
) -> None:
    """The caches that a turn adds are at most what the guard says that it needs."""
    lm = make_lm("llama")
    needs: list[int] = []

    class Spy(MemoryGuard):
        def kv_bytes(self, lease: CacheLease, total_tokens: int, forward_tokens: int) -> int:
            needs.append(super().kv_bytes(lease, total_tokens, forward_tokens))
            return needs[-1]

    with tt.Investigation(lm, store=store, name="kv", system_prompt="Be kind. " * 30) as run:
        object.__setattr__(run.generator._engine._resources, "memory_guard", Spy())
        for length in (10, 3, 400, 10, 200):
            run.chat("w" * length, max_new_tokens=30, min_new_tokens=30)
    stored = [
        event.kv_bytes
        for event in (each.event for each in store.recording(run.run_id).events())
        if isinstance(event, MemorySampled | SystemPromptCached)
    ]
    turns = list(zip(needs, pairwise(stored), strict=True))

    assert all(after <= need <= 1.5 * after for need, (before, after) in turns if after > before)
    assert all(after == before for need, (before, after) in turns if not need)
    assert 0 in needs


def test_memory_that_the_allocator_of_a_gpu_holds_unused_counts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cuda = torch.device("cuda")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1000, 9000))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 700)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 500)

    assert memory_check.usable_bytes(cuda) == 1200


def test_files_that_a_container_has_cached_count_as_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory_check, "_CGROUP", tmp_path)
    (tmp_path / "memory.max").write_text("5000000\n")
    (tmp_path / "memory.current").write_text("4900000\n")
    (tmp_path / "memory.stat").write_text("anon 900000\ninactive_file 4000000\nactive_file 3\n")

    assert memory_check.usable_bytes(torch.device("cpu")) == 4_100_000


def test_checking_a_turn_takes_less_than_a_millisecond(
    lm: tt.LoadedModel, store: DatabaseStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    spent: list[float] = []
    check = MemoryGuard.check

    def timed(self: MemoryGuard, *arguments: object, **keywords: object) -> None:
        began = time.perf_counter()
        check(self, *arguments, **keywords)  # type: ignore[arg-type]
        spent.append(time.perf_counter() - began)

    monkeypatch.setattr(MemoryGuard, "check", timed)
    with tt.Investigation(lm, store=store, name="t", system_prompt="Be brief.") as run:
        for _ in range(6):
            run.chat("Hello", max_new_tokens=2)
    assert min(spent) < 0.001
