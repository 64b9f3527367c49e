"""Decoding with and without traced steps."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

import tokentape as tt
from tokentape.generation import hf
from tokentape.generation.hf import traced_model

PROMPT = 30
TRACED = ("llama", "mistral_full", "qwen3")


def make(make_lm: Callable[..., tt.LoadedModel], family: str, **settings: Any) -> Any:
    if family == "mistral_full":
        return make_lm("mistral", sliding_window=None, **settings).model
    return make_lm(family, **settings).model


def decoder_of(model: Any, cache: Any = None, *, ids: torch.Tensor) -> hf.Decoder:
    return hf.Decoder(model, hf.prefill_config(model), ids, cache or hf.new_cache(model))


def steps(
    decoder: hf.Decoder,
    count: int,
    *,
    between: Callable[[int], None] = lambda step: None,
) -> list[torch.Tensor]:
    """Return the logits after the prompt and after each of the likeliest tokens."""
    logits, _ = decoder.prefill()
    taken, ids = [logits], decoder.prompt
    for step in range(count):
        between(step)
        ids = torch.cat((ids, taken[-1].argmax(-1)[:, None]), dim=-1)
        taken.append(decoder.forward(ids))
    return taken


def by_modules(monkeypatch: pytest.MonkeyPatch, act: Callable[[], Any]) -> Any:
    with monkeypatch.context() as patch:
        patch.setattr(traced_model, "FAMILIES", frozenset())
        return act()


def same_caches(one: hf.Decoder, other: hf.Decoder) -> bool:
    pairs: Any = zip(one.cache.layers, other.cache.layers, strict=True)
    return all(torch.equal(a.keys, b.keys) and torch.equal(a.values, b.values) for a, b in pairs)
