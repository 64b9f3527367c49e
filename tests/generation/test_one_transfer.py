"""A step moves its numbers to the host once, where a GPU would be waited for."""

from collections import Counter
from typing import Any

import pytest
import torch

import tokentape as tt
from benchmarks.tiny_models import random_ids
from tokentape.generation.engine import multinomial
from tokentape.generation.hf import nucleus
from tokentape.store import DatabaseStore

WAITING = ("tolist", "item", "cpu", "numpy", "__bool__", "__int__", "__float__", "__index__")
"""Methods of a tensor that wait for its device."""


def counted(
    lm: tt.LoadedModel, recorder: tt.Recorder, tokens: int, settings: dict[str, Any]
) -> Counter[str]:
    calls: Counter[str] = Counter()
    generator = tt.ManualGenerator(lm.model, lm.tokenizer, recorder)

    def counting(name: str) -> Any:
        method = getattr(torch.Tensor, name)

        def call(*arguments: Any, **keywords: Any) -> Any:
            calls[name] += 1
            return method(*arguments, **keywords)

        return call

    with pytest.MonkeyPatch.context() as patch:
        for name in WAITING:
            patch.setattr(torch.Tensor, name, counting(name))
        result = generator.generate(
            random_ids(20, 1), max_new_tokens=tokens, min_new_tokens=tokens, seed=1, **settings
        )
    assert len(result["generated_tokens"]) == tokens
    return calls


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({"do_sample": False}, id="greedy"),
        pytest.param({"do_sample": True, "temperature": 0.7, "top_p": 0.9}, id="sampled"),
        pytest.param(
            {"do_sample": True, "min_p": 0.05, "repetition_penalty": 1.2, "top_k": 20}, id="more"
        ),
    ],
)
def test_a_recorded_token_costs_one_transfer(
    lm: tt.LoadedModel,
    store: DatabaseStore,
    settings: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # On a CPU, where nothing waits, `top_p` and the draw read numbers; on a GPU libraries do both.
    monkeypatch.setattr(nucleus, "_can_read", lambda scores: False)
    monkeypatch.setattr(multinomial, "draws_are_known", lambda device: False)
    few, many = (counted(lm, tt.Recorder(store), tokens, settings) for tokens in (5, 12))

    assert many - few == {"tolist": 7}
