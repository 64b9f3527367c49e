"""Sequences with shared prefixes are cached, each token once, and all can be reused."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch

import tokentape as tt
from benchmarks.tiny_models import random_ids
from tokentape.generation import hf
from tokentape.recorder.events import CacheEvicted
from tokentape.store import DatabaseStore

GREEDY: dict[str, Any] = {"do_sample": False, "max_new_tokens": 4}
TOKEN_BYTES = 2 * 3 * 2 * 16 * 4
"""Of the tiny models: keys and values, layers, heads, dimension, float32."""


def cold(lm: tt.LoadedModel, ids: Sequence[int]) -> list[int]:
    return tt.ManualGenerator(lm.model, lm.tokenizer).generate(ids, **GREEDY)["generated_tokens"]


@pytest.fixture
def generator(lm: tt.LoadedModel) -> tt.ManualGenerator:
    return tt.ManualGenerator(lm.model, lm.tokenizer)


@pytest.mark.parametrize("family", ["llama", "gemma3", "mamba", "qwen3-next"])
def test_going_back_to_a_branch_reuses_its_tail(
    family: str, make_lm: Callable[..., tt.LoadedModel]
) -> None:
    lm = make_lm(family)
    generator = tt.ManualGenerator(lm.model, lm.tokenizer)
    root = random_ids(60, 1)
    main = [*root, *generator.generate(root, **GREEDY)["generated_tokens"], *random_ids(30, 2)]
    main += generator.generate(main, **GREEDY)["generated_tokens"]
    fork = [*root, *random_ids(20, 3)]
    fork += generator.generate(fork, **GREEDY)["generated_tokens"]
    back = generator.generate([*main, 7], **GREEDY)
    there = generator.generate([*fork, 8], **GREEDY)

    assert back["cache"].reused_tokens == len(main) - 1
    assert there["cache"].reused_tokens == len(fork) - 1
    assert back["generated_tokens"] == cold(lm, [*main, 7])
    assert there["generated_tokens"] == cold(lm, [*fork, 8])


def test_branches_of_branches_are_reassembled(
    lm: tt.LoadedModel, generator: tt.ManualGenerator
) -> None:
    root = random_ids(30, 1)
    twigs = {
        "a": [*root, *random_ids(10, 2)],
        "ab": [*root, *random_ids(10, 2), *random_ids(10, 3)],
        "abc": [*root, *random_ids(10, 2), *random_ids(10, 3)[:5], *random_ids(9, 4)],
        "d": [*root[:15], *random_ids(12, 5)],
        "e": random_ids(25, 6),
    }
    for ids in twigs.values():
        generator.generate(ids, **GREEDY)
    for name in ("abc", "e", "a", "d", "ab", "abc", "d", "e"):
        again = generator.generate([*twigs[name], 9], **GREEDY)
        assert again["cache"].reused_tokens >= len(twigs[name]), name
        assert again["generated_tokens"] == cold(lm, [*twigs[name], 9]), name


def test_the_shared_prefix_is_stored_once(generator: tt.ManualGenerator) -> None:
    root = random_ids(1000, 1)
    generator.generate(root, **GREEDY)
    alone = generator.kv_bytes
    for seed in range(2, 12):
        generator.generate([*root, *random_ids(20, seed)], **GREEDY)

    # Ten tails of 24 tokens, and the spare capacity of the trunk.
    assert generator.kv_bytes - alone < 10 * 30 * TOKEN_BYTES + 200 * TOKEN_BYTES
    assert alone > 1000 * TOKEN_BYTES


def test_switching_between_branches_stores_no_token_twice(generator: tt.ManualGenerator) -> None:
    root = random_ids(400, 1)
    branches = [[*root, *random_ids(300, seed)] for seed in (2, 3)]
    held = []
    for turn in range(8):
        generator.generate([*branches[turn % 2], 5], **GREEDY)
        held.append(generator.kv_bytes)

    assert max(held[2:]) <= max(held[:2]) + 10 * TOKEN_BYTES


def test_a_retry_of_a_prompt_keeps_both_replies(generator: tt.ManualGenerator) -> None:
    root = random_ids(40, 1)
    settings = {"do_sample": True, "temperature": 2.0, "max_new_tokens": 20}
    first = generator.generate(root, seed=1, **settings)
    second = generator.generate(root, seed=2, **settings)
    assert first["generated_tokens"] != second["generated_tokens"]
    again = generator.generate([*root, *first["generated_tokens"], 5], **GREEDY)

    assert second["cache"].reused_tokens == 39
    assert again["cache"].reused_tokens == 40 + 19


def test_a_budget_evicts_the_oldest_tail_first_and_the_system_prompt_last(
    lm: tt.LoadedModel, store: DatabaseStore
) -> None:
    recorder = tt.Recorder(store)
    generator = tt.ManualGenerator(lm.model, lm.tokenizer, recorder, cache_bytes=700 * TOKEN_BYTES)
    generator.cache_system_prompt("Be kind and brief. " * 5)
    system = list(generator.conversation.ids)
    tails = [[*system, *random_ids(150, seed)] for seed in range(1, 7)]
    for ids in tails:
        generator.generate(ids, **GREEDY)
        assert generator.kv_bytes <= 700 * TOKEN_BYTES
    evicted = [
        each.event
        for each in store.recording(recorder.run_id).events()
        if isinstance(each.event, CacheEvicted)
    ]
    newest = generator.generate([*tails[-1], 5], **GREEDY)
    oldest = generator.generate([*tails[0], 5], **GREEDY)

    assert newest["cache"].reused_tokens == len(tails[-1])
    assert oldest["cache"].reused_tokens == len(system)
    assert {each.reason for each in evicted} == {"budget"}
    assert all(each.freed_bytes > 0 for each in evicted)
    assert evicted[-1].kept_bytes <= 700 * TOKEN_BYTES


def test_the_system_prompt_stays_when_the_rest_is_evicted(lm: tt.LoadedModel) -> None:
    generator = tt.ManualGenerator(lm.model, lm.tokenizer, cache_bytes=260 * TOKEN_BYTES)
    generator.cache_system_prompt("Be kind and brief.")
    system = list(generator.conversation.ids)
    for seed in range(1, 5):
        generator.generate(random_ids(100, seed), **GREEDY)
    back = generator.generate([*system, 5], **GREEDY)

    assert back["cache"].reused_tokens == len(system)
    assert generator.kv_bytes <= 260 * TOKEN_BYTES


@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_a_sequence_larger_than_the_budget_evicts_nothing(
    family: str, make_lm: Callable[..., tt.LoadedModel], store: DatabaseStore
) -> None:
    lm = make_lm(family)
    recorder = tt.Recorder(store)
    generator = tt.ManualGenerator(lm.model, lm.tokenizer, recorder, cache_bytes=500 * TOKEN_BYTES)
    generator.cache_system_prompt("Be kind and brief.")
    system = list(generator.conversation.ids)
    small = [*system, *random_ids(40, 1)]
    generator.generate(small, **GREEDY)
    large = [*system, *random_ids(1500, 2)]
    said = generator.generate(large, **GREEDY)
    back = generator.generate([*small, 5], **GREEDY)
    events = [each.event for each in store.recording(recorder.run_id).events()]
    refused = [each for each in events if isinstance(each, CacheEvicted)]

    assert said["generated_tokens"] == cold(lm, large)
    assert back["cache"].reused_tokens == len(small)
    assert refused[0].reason == "over_budget"
    assert generator.kv_bytes <= 500 * TOKEN_BYTES


def test_the_reported_bytes_are_those_of_the_storage(lm: tt.LoadedModel) -> None:
    cache = hf.new_cache(lm.model)
    with torch.no_grad():
        lm.model(torch.tensor([[5, 6, 7, 8]]), **hf.cache_argument(lm.model, cache))
    whole = hf.kv_bytes(cache)
    twin = hf.fork(cache)
    hf.crop(twin, 2)

    assert (cache.get_seq_length(), twin.get_seq_length()) == (4, 2)
    # The view still occupies its storage, which both share.
    assert hf.kv_bytes(cache, twin) == hf.kv_bytes(twin) == whole
    hf.compact(twin)
    assert hf.kv_bytes(twin) == 2 * TOKEN_BYTES


def test_an_interrupted_turn_leaves_the_cache_intact(generator: tt.ManualGenerator) -> None:
    root = random_ids(60, 1)
    generator.generate(root, **GREEDY)

    def stop(token_id: int, logits: torch.Tensor) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        generator.generate([*root, 5, 6, 7], callback=stop, **GREEDY)
    again = generator.generate([*root, 5, 6, 7], **GREEDY)

    assert again["cache"].reused_tokens == 60


def test_appending_to_a_returned_cache_does_not_change_ours(
    lm: tt.LoadedModel, generator: tt.ManualGenerator
) -> None:
    root = random_ids(60, 1)
    held = generator.generate(root, return_cache=True, **GREEDY)["past_key_values"]
    assert held is not None
    mine: Any = held.cache
    # Unrelated: the cached root becomes a tail.
    generator.generate([260] * 5, **GREEDY)
    mine.crop(-30)
    with torch.no_grad():
        lm.model(torch.tensor([[9] * 30]), **hf.cache_argument(lm.model, mine))
    again = generator.generate([*root, 7, 8], **GREEDY)

    assert again["cache"].reused_tokens == 60
    assert again["generated_tokens"] == cold(lm, [*root, 7, 8])


def test_evicting_a_branch_evicts_its_dependents_and_nothing_else(
    lm: tt.LoadedModel,
) -> None:
    generator = tt.ManualGenerator(lm.model, lm.tokenizer)
    root = random_ids(200, 1)
    branches = [[*root, *random_ids(20, seed)] for seed in range(2, 42)]
    for ids in branches:
        generator.generate(ids, **GREEDY)
    twigs = [[*branches[0][:210], *random_ids(9, seed)] for seed in range(50, 53)]
    for ids in twigs:
        generator.generate(ids, **GREEDY)
    generator._cache._budget_bytes = generator.kv_bytes - 1
    generator.generate([*branches[-1], 5], **GREEDY)

    kept = [generator._cache.peek([*ids, 5]).reused_tokens for ids in (*branches, *twigs)]
    assert sum(tokens > 210 for tokens in kept) >= 40
    for ids in (branches[0], branches[7], twigs[0], twigs[2]):
        assert generator.generate([*ids, 5], **GREEDY)["generated_tokens"] == cold(lm, [*ids, 5])


@pytest.mark.parametrize("family", ["gemma3", "mamba", "qwen3-next"])
def test_a_budget_applies_to_snapshots_of_interrupted_turns(
    family: str, make_lm: Callable[..., tt.LoadedModel]
) -> None:
    lm = make_lm(family)
    probe = tt.ManualGenerator(lm.model, lm.tokenizer)
    probe.generate(random_ids(30, 1), **GREEDY)
    for budget in (probe.kv_bytes // 3, probe.kv_bytes * 2):
        generator = tt.ManualGenerator(lm.model, lm.tokenizer, cache_bytes=budget)

        def breaks(token_id: int, logits: torch.Tensor) -> None:
            raise ZeroDivisionError

        for seed in range(8):
            generator.generate(random_ids(30, seed), **GREEDY)
            assert generator.kv_bytes <= budget
            with pytest.raises(ZeroDivisionError):
                generator.generate(random_ids(30, 90 + seed), callback=breaks, **GREEDY)
            assert generator.kv_bytes <= budget


def test_a_recurrent_cache_that_was_used_after_it_was_returned_is_rejected(
    make_lm: Callable[..., tt.LoadedModel],
) -> None:
    lm = make_lm("mamba")
    generator = tt.ManualGenerator(lm.model, lm.tokenizer)
    ids = random_ids(30, 1)
    result = generator.generate(ids, return_cache=True, **GREEDY)
    held = result["past_key_values"]
    assert held is not None
    longer = [*ids, *result["generated_tokens"], 7]
    taken = generator.generate(longer, past_key_values=held, **GREEDY)
    with torch.no_grad():
        given_cache = hf.cache_argument(lm.model, held.cache)
        lm.model(torch.tensor([[9]]), use_cache=True, **given_cache)

    assert taken["cache"].reused_tokens == len(held.ids)
    with pytest.raises(tt.ModelError, match="was used after it was returned"):
        generator.generate(longer, past_key_values=held, **GREEDY)
