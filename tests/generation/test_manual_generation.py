"""The tests of the original plan, under the names that it gives them."""

import gc
import weakref
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from transformers import LogitsProcessor, LogitsProcessorList

import tokentape as tt
from benchmarks.tiny_models import random_ids
from tests.samplers import GREEDY
from tokentape.generation import CachedPrefix, hf

EOS = 2


@pytest.fixture
def generator(lm: tt.LoadedModel) -> tt.ManualGenerator:
    return tt.ManualGenerator(lm.model, lm.tokenizer)


def reference(lm: tt.LoadedModel, ids: list[int], **settings: Any) -> list[int]:
    """Return the new tokens of `model.generate` with a fresh cache."""
    prompt = torch.tensor([ids])
    output = lm.model.generate(prompt, attention_mask=torch.ones_like(prompt), **settings)
    tokens: list[int] = output[0, len(ids) :].tolist()
    return tokens


class States:
    """An observer that collects its states."""

    def __init__(self) -> None:
        self.seen: list[tt.GenerationState] = []
        self.held: list[int] = []

    def __call__(self, state: tt.GenerationState) -> None:
        self.seen.append(state)
        self.held.append(int(state.past_key_values.get_seq_length()))


def test_generate_single_token(lm: tt.LoadedModel, generator: tt.ManualGenerator) -> None:
    ids = lm.tokenizer.encode("Hello")
    with torch.no_grad():
        likeliest = int(lm.model(torch.tensor([ids])).logits[0, -1].argmax())
    result = generator.generate(ids, max_new_tokens=1, **GREEDY)

    assert result["generated_tokens"] == [likeliest]
    assert result["num_tokens"] == 1


def test_generate_multiple_tokens(lm: tt.LoadedModel, generator: tt.ManualGenerator) -> None:
    ids = lm.tokenizer.encode("Once upon a")
    one_by_one: list[int] = []
    for _ in range(5):
        with torch.no_grad():
            logits = lm.model(torch.tensor([[*ids, *one_by_one]])).logits
        one_by_one.append(int(logits[0, -1].argmax()))
    result = generator.generate(ids, max_new_tokens=5, **GREEDY)

    assert result["generated_tokens"] == one_by_one
    assert result["generated_text"] == lm.tokenizer.decode(one_by_one)


class EndsAfter(LogitsProcessor):
    """A processor that forces the end-of-sequence token at a length, and forbids it before."""

    def __init__(self, tokens: int) -> None:
        self.tokens = tokens

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        scores = scores.clone()
        ends = input_ids.shape[1] >= self.tokens
        scores[:, EOS] = 1e9 if ends else -1e9
        return scores


def test_generate_until_eos(generator: tt.ManualGenerator) -> None:
    ids = random_ids(10, 1)
    result = generator.generate(
        ids,
        max_new_tokens=50,
        logits_processor=LogitsProcessorList([EndsAfter(14)]),
        **GREEDY,
    )

    assert result["stop_reason"] == "eos"
    assert result["num_tokens"] == 5
    assert result["generated_tokens"][-1] == EOS


def test_generate_respects_max_new_tokens(generator: tt.ManualGenerator) -> None:
    result = generator.generate(
        random_ids(10, 1), max_new_tokens=10, suppress_tokens=[EOS], **GREEDY
    )

    assert result["num_tokens"] == len(result["generated_tokens"]) == 10
    assert result["stop_reason"] == "max_new_tokens"


def test_kv_cache_creation(lm: tt.LoadedModel, generator: tt.ManualGenerator) -> None:
    states = States()
    generator.generate(random_ids(7, 1), max_new_tokens=1, observer=states, **GREEDY)
    cache = states.seen[0].past_key_values
    with torch.no_grad():
        expected = hf.cache_of(lm.model(torch.tensor([random_ids(7, 1)]), use_cache=True))

    assert len(cache.layers) == lm.model.config.num_hidden_layers
    for ours, theirs in zip(cache.layers, expected.layers, strict=True):
        assert ours.keys.dtype == lm.model.dtype
        assert torch.equal(ours.keys, theirs.keys)
        assert torch.equal(ours.values, theirs.values)


def test_kv_cache_reuse(lm: tt.LoadedModel, generator: tt.ManualGenerator) -> None:
    forwarded: list[int] = []
    lm.model.get_input_embeddings().register_forward_hook(
        lambda module, inputs, output: forwarded.append(inputs[0].shape[1])
    )
    ids = random_ids(40, 1)
    first = generator.generate(ids, max_new_tokens=4, **GREEDY)
    so_far = len(forwarded)
    ids += [*first["generated_tokens"], *random_ids(6, 2)]
    second = generator.generate(ids, max_new_tokens=1, **GREEDY)

    assert forwarded[:so_far] == [40, 1, 1, 1]
    assert forwarded[so_far:] == [7], "the six new tokens, and the one that was sampled last"
    assert second["cache_used"]
    assert second["generated_tokens"] == reference(lm, ids, max_new_tokens=1, **GREEDY)


def test_kv_cache_append(generator: tt.ManualGenerator) -> None:
    states = States()
    generator.generate(random_ids(5, 1), max_new_tokens=4, observer=states, **GREEDY)

    # A token is in the cache once the next one is asked for.
    assert states.held == [5, 6, 7, 8]
    assert [state.generated_tokens for state in states.seen] == [
        states.seen[-1].generated_tokens[:count] for count in (1, 2, 3, 4)
    ]


@pytest.mark.parametrize("family", ["llama", "qwen3", "gpt2"])
def test_kv_cache_shapes(family: str, make_lm: Callable[..., tt.LoadedModel]) -> None:
    lm = make_lm(family)
    states = States()
    tt.ManualGenerator(lm.model, lm.tokenizer).generate(
        random_ids(9, 1), max_new_tokens=3, observer=states, **GREEDY
    )
    config = lm.model.config
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    state = states.seen[-1]

    assert state.input_ids.shape == state.attention_mask.shape == (1, 12)
    assert bool((state.attention_mask == 1).all())
    for layer in state.past_key_values.layers:
        assert layer.keys.shape == layer.values.shape == (1, heads, 11, 16)


def test_conversation_system_user_assistant(
    lm: tt.LoadedModel, generator: tt.ManualGenerator
) -> None:
    generator.cache_system_prompt("Be kind.")
    system = len(generator.conversation.system_ids)
    result = generator.generate("Hello", max_new_tokens=4, **GREEDY)
    whole = lm.tokenizer.apply_chat_template(
        [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hello"}],
        add_generation_prompt=True,
        return_dict=False,
    )

    assert result["prompt_tokens"] == len(whole)
    assert result["cache"].reused_tokens == system
    assert result["generated_tokens"] == reference(lm, whole, max_new_tokens=4, **GREEDY)


def test_conversation_multi_turn(lm: tt.LoadedModel) -> None:
    store = tt.open_store("sqlite://")
    with tt.Investigation(lm, store=store, name="t", system_prompt="Be kind.") as run:
        replies = [run.chat(f"Question {n}?", max_new_tokens=6, **GREEDY) for n in range(3)]
    prompts = [turn.prompt_ids for turn in store.recording(run.run_id).turns()]

    for before, after, reply in zip(prompts, prompts[1:], replies, strict=False):
        assert after[: len(before)] == before
        assert after[len(before) : len(before) + 6] == reply.token_ids
    for before, reply in zip(prompts, replies[1:], strict=False):
        assert reply.cache.reused_tokens == len(before) + 5
    for prompt, reply in zip(prompts, replies, strict=True):
        assert list(reply.token_ids) == reference(lm, list(prompt), max_new_tokens=6, **GREEDY)


def test_conversation_cache_persistence(generator: tt.ManualGenerator) -> None:
    ids = random_ids(20, 1)
    first = generator.generate(ids, max_new_tokens=5, return_cache=True, **GREEDY)
    held = first["past_key_values"]
    assert held is not None
    ids += first["generated_tokens"]
    second = generator.generate([*ids, 9], max_new_tokens=5, return_cache=True, **GREEDY)
    longer = second["past_key_values"]
    assert longer is not None

    assert held.ids == tuple(ids[:-1])
    assert longer.ids[: len(held.ids)] == held.ids
    for before, after in zip(held.cache.layers, longer.cache.layers, strict=True):
        assert torch.equal(before.keys, after.keys[:, :, : len(held.ids)])


def test_a_returned_cache_is_reused_and_its_ids_are_checked(
    lm: tt.LoadedModel, generator: tt.ManualGenerator
) -> None:
    ids = random_ids(20, 1)
    first = generator.generate(ids, max_new_tokens=5, return_cache=True, **GREEDY)
    held = first["past_key_values"]
    longer = [*ids, *first["generated_tokens"], 7, 8]
    elsewhere = tt.ManualGenerator(lm.model, lm.tokenizer)
    whole = elsewhere.generate(longer, max_new_tokens=4, past_key_values=held, **GREEDY)
    part = elsewhere.generate([*ids[:12], 9, 9], max_new_tokens=4, past_key_values=held, **GREEDY)
    other = elsewhere.generate(random_ids(9, 5), max_new_tokens=4, past_key_values=held, **GREEDY)

    assert (whole["cache"].reused_tokens, whole["cache"].source) == (24, "given")
    assert (part["cache"].reused_tokens, part["cache"].reason) == (12, "token_divergence")
    assert other["cache"].reused_tokens == 0
    assert whole["generated_tokens"] == reference(lm, longer, max_new_tokens=4, **GREEDY)
    assert part["generated_tokens"] == reference(lm, [*ids[:12], 9, 9], max_new_tokens=4, **GREEDY)
    assert held is not None
    assert held.cache.get_seq_length() == len(held.ids), "what was handed over is left as it was"


def test_temperature_sampling(generator: tt.ManualGenerator) -> None:
    ids = random_ids(10, 1)

    def replies(temperature: float) -> set[tuple[int, ...]]:
        return {
            tuple(
                generator.generate(
                    ids, max_new_tokens=3, do_sample=True, temperature=temperature, seed=seed
                )["generated_tokens"]
            )
            for seed in range(20)
        }

    greedy = generator.generate(ids, max_new_tokens=3, **GREEDY)["generated_tokens"]
    assert replies(0.01) == {tuple(greedy)}
    assert len(replies(3.0)) > 15


def test_top_p_sampling(lm: tt.LoadedModel, generator: tt.ManualGenerator) -> None:
    ids = random_ids(10, 1)
    with torch.no_grad():
        probabilities = torch.softmax(lm.model(torch.tensor([ids])).logits[0, -1], dim=-1)
    ordered, order = probabilities.sort(descending=True)
    nucleus = set(order[: int((ordered.cumsum(0) < 0.6).sum()) + 1].tolist())

    def first_tokens(top_p: float) -> set[int]:
        settings = {"do_sample": True, "top_k": 0, "top_p": top_p, "max_new_tokens": 1}
        return {
            generator.generate(ids, seed=seed, **settings)["generated_tokens"][0]
            for seed in range(60)
        }

    assert first_tokens(0.6) <= nucleus
    assert not first_tokens(1.0) <= nucleus


def test_deterministic_with_temp_zero(generator: tt.ManualGenerator) -> None:
    said = [generator.generate("Hello", max_new_tokens=12, temperature=0) for _ in range(3)]

    assert said[0]["generated_tokens"] == said[1]["generated_tokens"] == said[2]["generated_tokens"]
    assert {each["seed"] for each in said} == {None}


@pytest.mark.parametrize("prompt", ["", "   ", [], torch.zeros((1, 0), dtype=torch.long)])
def test_empty_input_handling(generator: tt.ManualGenerator, prompt: Any) -> None:
    with pytest.raises(tt.PromptError, match="empty"):
        generator.generate(prompt)

    assert generator.turn == 0


def wrong_length(held: CachedPrefix) -> CachedPrefix:
    return replace(held, ids=held.ids[:-1])


def one_layer_short(held: CachedPrefix) -> CachedPrefix:
    cache = hf.fork(held.cache)
    cache.layers[1].crop(-2)
    return replace(held, cache=cache)


def wrong_heads(held: CachedPrefix) -> CachedPrefix:
    cache = hf.fork(held.cache)
    layer: Any = cache.layers[0]
    layer.keys, layer.values = layer.keys[:, :1], layer.values[:, :1]
    return replace(held, cache=cache)


def too_few_layers(held: CachedPrefix) -> CachedPrefix:
    cache = hf.fork(held.cache)
    cache.layers = cache.layers[:1]
    return replace(held, cache=cache)


def without_ids(held: CachedPrefix) -> Any:
    return held.cache


@pytest.mark.parametrize(
    "corrupt", [wrong_length, one_layer_short, wrong_heads, too_few_layers, without_ids]
)
def test_invalid_cache_handling(
    corrupt: Callable[[CachedPrefix], Any], generator: tt.ManualGenerator
) -> None:
    ids = random_ids(20, 1)
    held = generator.generate(ids, max_new_tokens=3, return_cache=True, **GREEDY)["past_key_values"]
    assert held is not None
    turn = generator.turn
    with pytest.raises(tt.ModelError) as caught:
        generator.generate([*ids, 5], past_key_values=corrupt(held), **GREEDY)

    assert "\n" not in str(caught.value)
    assert generator.turn == turn


def test_memory_cleanup(generator: tt.ManualGenerator) -> None:
    generator.cache_system_prompt("Be kind and brief.")
    states = States()
    generator.generate("Hello", max_new_tokens=4, observer=states, **GREEDY)
    watched = [
        weakref.ref(layer.keys.untyped_storage())
        for layer in states.seen[-1].past_key_values.layers
    ]
    states.seen.clear()
    assert generator.kv_bytes > 0
    generator.clear_cache()
    gc.collect()

    assert generator.kv_bytes == 0
    assert [each() for each in watched] == [None] * len(watched)
    assert not generator.generate("Hello", max_new_tokens=2, **GREEDY)["cache_used"]


def test_max_context_length(lm: tt.LoadedModel, generator: tt.ManualGenerator) -> None:
    longest = lm.model.config.max_position_embeddings
    fits = generator.generate([5] * (longest - 2), max_new_tokens=2, **GREEDY)

    assert fits["prompt_tokens"] == longest - 2
    with pytest.raises(tt.PromptError, match=f"context of {longest}"):
        generator.generate([5] * (longest - 2), max_new_tokens=3, **GREEDY)


def test_matches_generate_api_output(lm: tt.LoadedModel, generator: tt.ManualGenerator) -> None:
    for seed in range(5):
        ids = random_ids(8 + 7 * seed, seed)
        result = generator.generate(ids, max_new_tokens=20, **GREEDY)
        assert result["generated_tokens"] == reference(lm, ids, max_new_tokens=20, **GREEDY)


def test_matches_generate_api_with_sampling(
    lm: tt.LoadedModel, generator: tt.ManualGenerator
) -> None:
    ids = random_ids(20, 1)
    settings = {"do_sample": True, "temperature": 0.8, "top_p": 0.9, "max_new_tokens": 20}
    for seed in range(5):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            expected = reference(lm, ids, **settings)
        assert generator.generate(ids, seed=seed, **settings)["generated_tokens"] == expected


def test_the_state_says_whether_the_reply_is_finished(generator: tt.ManualGenerator) -> None:
    states = States()
    generator.generate(random_ids(5, 1), max_new_tokens=3, observer=states, **GREEDY)

    assert [state.finished for state in states.seen] == [False, False, True]
