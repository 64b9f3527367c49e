"""The cached system prompt of a generator: its copy, and its length."""

import pytest
import torch

import tokentape as tt
from tests.samplers import GREEDY
from tokentape.store import DatabaseStore

SYSTEM = "Be kind, be brief, and say so where you do not know."


@pytest.fixture
def generator(lm: tt.LoadedModel) -> tt.ManualGenerator:
    made = tt.ManualGenerator(lm.model, lm.tokenizer)
    made.cache_system_prompt(SYSTEM)
    return made


def test_the_copy_holds_the_ids_of_the_system_prompt(generator: tt.ManualGenerator) -> None:
    cached = generator.system_prompt_cache

    assert cached is not None
    assert cached.ids == generator.conversation.system_ids
    assert generator.system_prompt_length == len(cached.ids) > 0
    assert cached.cache.get_seq_length() == len(cached.ids)


def test_without_a_cached_system_prompt_there_is_no_copy(lm: tt.LoadedModel) -> None:
    generator = tt.ManualGenerator(lm.model, lm.tokenizer)
    assert (generator.system_prompt_cache, generator.system_prompt_length) == (None, 0)
    generator.cache_system_prompt(SYSTEM)
    generator.clear_cache()

    assert (generator.system_prompt_cache, generator.system_prompt_length) == (None, 0)


def test_reading_the_copy_takes_nothing_from_later_turns(
    lm: tt.LoadedModel, store: DatabaseStore
) -> None:
    def decisions(*, reads: bool) -> list[tuple[int, str, tuple[int, ...]]]:
        found = []
        with tt.Investigation(lm, store=store, name="n", system_prompt=SYSTEM) as run:
            for _ in range(3):
                reply = run.chat("Go on.", max_new_tokens=6, **GREEDY)
                found.append((reply.cache.reused_tokens, reply.cache.decision, reply.token_ids))
                if reads:
                    assert run.generator.system_prompt_cache is not None
        return found

    assert decisions(reads=True) == decisions(reads=False)


def test_the_copy_is_independent_and_serves_another_generator(
    lm: tt.LoadedModel, generator: tt.ManualGenerator
) -> None:
    cached = generator.system_prompt_cache
    assert cached is not None
    ids = [*cached.ids, 5, 6, 7]
    other = tt.ManualGenerator(lm.model, lm.tokenizer)
    result = other.generate(ids, past_key_values=cached, max_new_tokens=6, **GREEDY)
    expected = lm.model.generate(torch.tensor([ids]), max_new_tokens=6, **GREEDY)

    assert result["cache"].reused_tokens == len(cached.ids)
    assert result["generated_tokens"] == expected[0, len(ids) :].tolist()
    assert cached.cache.get_seq_length() == len(cached.ids)
    assert generator.system_prompt_length == len(cached.ids)


def test_a_callback_cannot_copy_the_cache_of_a_running_turn(
    generator: tt.ManualGenerator,
) -> None:
    def read(token_id: int, logits: torch.Tensor) -> None:
        _ = generator.system_prompt_cache

    with pytest.raises(tt.TokentapeError, match="a turn is running"):
        generator.generate("Hello", max_new_tokens=2, callback=read, **GREEDY)
