"""A generator or a run that is dropped frees its cached keys and values at once."""

import gc
import weakref
from collections.abc import Callable, Iterator

import pytest
import torch

import tokentape as tt
from benchmarks.tiny_models import FAMILIES
from tokentape.store import DatabaseStore

SETTINGS = {"max_new_tokens": 3, "do_sample": True, "seed": 1}


@pytest.fixture
def cached_tensors(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], int]]:
    """Return how many tensors of caches are in memory, without the help of garbage collection."""
    from tokentape.generation import hf

    made: list[weakref.ref[object]] = []
    new_cache = hf.new_cache

    def followed(*args: object, **keywords: object) -> object:
        cache = new_cache(*args, **keywords)  # type: ignore[arg-type]
        made.append(weakref.ref(cache))
        return cache

    monkeypatch.setattr(hf, "new_cache", followed)
    gc.collect()
    gc.disable()
    try:
        yield lambda: sum(each() is not None for each in made)
    finally:
        gc.enable()


@pytest.mark.parametrize("family", FAMILIES)
def test_a_dropped_generator_frees_its_cache(
    family: str, make_lm: Callable[..., tt.LoadedModel], cached_tensors: Callable[[], int]
) -> None:
    lm = make_lm(family, dtype=torch.float32)
    generator = tt.ManualGenerator(lm.model, lm.tokenizer)
    generator.cache_system_prompt("Be brief.")
    generator.generate("Hello", **SETTINGS)
    generator.generate("Again", **SETTINGS)
    assert cached_tensors()
    del generator

    assert not cached_tensors()


def test_a_dropped_run_frees_its_cache(
    lm: tt.LoadedModel, store: DatabaseStore, cached_tensors: Callable[[], int]
) -> None:
    with tt.Investigation(lm, store=store, name="t", system_prompt="Be kind.") as run:
        run.chat("Hello", max_new_tokens=3, do_sample=True)
    assert cached_tensors()
    del run

    assert not cached_tensors()
