"""No tensor made in inference mode, which cannot take part in a backward pass, gets out."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

import tokentape as tt
from benchmarks.tiny_models import FAMILIES, random_ids
from tokentape.generation import hf

GREEDY: dict[str, Any] = {"do_sample": False, "max_new_tokens": 4}


def tensors_of_model(model: torch.nn.Module) -> Iterator[torch.Tensor]:
    for module in model.modules():
        yield from hf.tensors_of(vars(module))


@pytest.mark.parametrize("family", FAMILIES)
def test_model_cache_and_logits_contain_no_inference_tensor(
    family: str, make_lm: Callable[..., tt.LoadedModel]
) -> None:
    lm = make_lm(family)
    seen: list[torch.Tensor] = []

    def keep_logits(token_id: int, logits: torch.Tensor) -> None:
        seen.append(logits)

    def keep_ids(state: tt.GenerationState) -> None:
        seen.append(state.input_ids)

    generator = tt.ManualGenerator(lm.model, lm.tokenizer, prefill_chunk_tokens=8)
    first = random_ids(30, 1)
    for ids in (first, [*first[:20], *random_ids(9, 2)]):
        result = generator.generate(
            ids,
            callback=keep_logits,
            observer=keep_ids,
            return_cache=True,
            **GREEDY,
        )
        assert result["past_key_values"] is not None
        for layer in result["past_key_values"].cache.layers:
            seen += hf.tensors_of(vars(layer))

    assert not any(each.is_inference() for each in (*seen, *tensors_of_model(lm.model)))


def test_a_tensor_from_a_hook_can_be_trained_on(lm: tt.LoadedModel) -> None:
    taken: list[torch.Tensor] = []
    lm.model.model.layers[1].register_forward_hook(
        lambda module, inputs, output: taken.append(
            output[0] if isinstance(output, tuple) else output
        )
    )
    tt.ManualGenerator(lm.model, lm.tokenizer).generate(random_ids(20, 1), **GREEDY)
    probe = torch.nn.Linear(taken[0].shape[-1], 1)
    probe(taken[0]).sum().backward()

    assert probe.weight.grad is not None


def test_a_returned_cache_can_be_used_with_and_without_inference_mode(lm: tt.LoadedModel) -> None:
    ids = random_ids(30, 1)
    generator = tt.ManualGenerator(lm.model, lm.tokenizer)
    held = generator.generate(ids, return_cache=True, **GREEDY)["past_key_values"]
    assert held is not None
    longer = torch.tensor([[*held.ids, 5, 6, 7]])
    fresh = lm.model.generate(longer, attention_mask=torch.ones_like(longer), **GREEDY)
    for _ in range(2):
        said = lm.model.generate(
            longer,
            attention_mask=torch.ones_like(longer),
            **hf.cache_argument(lm.model, hf.fork(held.cache)),
            **GREEDY,
        )
        assert torch.equal(said, fresh)
    lm.model.train()
    loss = lm.model(longer[:, -3:], **hf.cache_argument(lm.model, held.cache)).logits.sum()
    loss.backward()
    lm.model.eval()

    assert lm.model.lm_head.weight.grad is not None
    again = generator.generate([*held.ids, 5, 6, 7], **GREEDY)
    assert again["cache"].reused_tokens == len(held.ids)
    assert again["generated_tokens"] == fresh[0, longer.shape[1] :].tolist()


@pytest.mark.parametrize("family", ["llama", "gemma3", "mamba", "qwen3-next"])
def test_the_callers_inference_mode_does_not_affect_the_cache(
    family: str, make_lm: Callable[..., tt.LoadedModel]
) -> None:
    lm = make_lm(family)
    generator = tt.ManualGenerator(lm.model, lm.tokenizer)
    ids = random_ids(30, 1)
    with torch.inference_mode():
        ids += generator.generate(ids, **GREEDY)["generated_tokens"]
    again = generator.generate([*ids, 5, 6], **GREEDY)

    assert again["cache"].reused_tokens == len(ids) - 1
