"""Our own hooks do not invalidate caches, and positions are tracked across recomputation."""

from collections.abc import Callable

import pytest
import torch

import tokentape as tt
from benchmarks.tiny_models import random_ids
from tokentape.generation.cache.key import cache_key
from tokentape.generation.hooks.forward_positions import (
    PREFILL,
    RECOMPUTED,
    ForwardPositions,
    recomputing,
    track_positions,
)
from tokentape.generation.hooks.hook_types import ReadOnlyHook

IDS = torch.tensor([[5, 6, 7, 8]])


def foreign(*args: object) -> None:
    """A hook that could change the output."""


def test_the_return_value_of_a_read_only_hook_is_discarded(
    lm: tt.LoadedModel,
) -> None:
    def zero(module: object, args: object, output: torch.Tensor) -> torch.Tensor:
        return torch.zeros_like(output)

    with torch.no_grad():
        plain = lm.model(IDS).logits
        handle = lm.model.model.norm.register_forward_hook(ReadOnlyHook(zero))
        watched = lm.model(IDS).logits
        handle.remove()

    assert torch.equal(plain, watched)


def test_the_cache_key_depends_on_foreign_hooks_only(lm: tt.LoadedModel) -> None:
    bare = cache_key(lm.model)
    with track_positions(lm.model):
        lm.model.model.layers[1].register_forward_hook(ReadOnlyHook(foreign))
        lm.model.model.layers[1].register_forward_pre_hook(ReadOnlyHook(foreign))
        assert cache_key(lm.model) == bare
        lm.model.model.layers[1].register_forward_hook(foreign)
        assert cache_key(lm.model) != bare


@pytest.mark.parametrize("ours", [True, False])
def test_a_cache_is_reused_across_our_hooks_and_not_across_foreign_ones(
    lm: tt.LoadedModel, ours: bool
) -> None:
    generator = tt.ManualGenerator(lm.model, lm.tokenizer)
    ids = random_ids(20, 1)
    generator.generate(ids, max_new_tokens=2, do_sample=False)
    hook: Callable[..., None] = ReadOnlyHook(foreign) if ours else foreign
    handle = lm.model.model.layers[1].register_forward_hook(hook)
    reused = []
    for _ in range(2):
        result = generator.generate(ids, max_new_tokens=2, do_sample=False)
        reused.append(result["cache"].reused_tokens)
        handle.remove()

    assert reused == ([19, 19] if ours else [0, 19])


def test_recomputation_does_not_advance_the_enclosing_positions(lm: tt.LoadedModel) -> None:
    seen = []
    with (
        track_positions(lm.model, ForwardPositions(start=3, end=7, turn=2)) as outer,
        torch.no_grad(),
    ):
        hook = ReadOnlyHook(lambda *_: seen.append((outer.start, outer.end, outer.source)))
        lm.model.model.norm.register_forward_hook(hook)
        with pytest.raises(RuntimeError, match="stop"), recomputing(lm.model, turn=2) as inner:
            lm.model(IDS)
            assert (inner.start, inner.end, inner.source) == (0, 4, RECOMPUTED)
            raise RuntimeError("stop")
        assert (outer.start, outer.end, outer.source) == (3, 7, PREFILL)
        lm.model(IDS)

    assert seen == [(0, 4, RECOMPUTED), (7, 11, PREFILL)]
    assert not lm.model._forward_pre_hooks
