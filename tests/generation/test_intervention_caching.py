"""Cached positions are valid under the interventions that they were computed with."""

from pathlib import Path
from typing import Any

import pytest
import torch

import tokentape as tt
from benchmarks.tiny_models import random_ids
from tests.generation.made_interventions import MakeLM, active, say
from tests.interventions import intervention
from tests.samplers import GREEDY
from tokentape.generation.cache.id_salt import salt_ids, strip_salt
from tokentape.store import DatabaseStore


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3", "mamba"])
def test_a_placebo_changes_no_bit(make_lm: MakeLM, store: DatabaseStore, family: str) -> None:
    lm = make_lm(family)
    layer = "blocks.1.mlp" if family != "mamba" else 1
    plain = say(lm, store)
    placebo = say(lm, store, tt.Intervention.placebo("none", layer, when=lambda state: state.step))
    kinds = [type(each.event).__name__ for each in placebo.events()]

    assert {"InterventionApplied", "InterventionRemoved"} <= set(kinds)
    for ours, theirs in zip(placebo.turns(), plain.turns(), strict=True):
        assert [(t.token_id, t.logprob, t.entropy) for t in ours.tokens] == [
            (t.token_id, t.logprob, t.entropy) for t in theirs.tokens
        ]
        assert ours.cache == theirs.cache


@pytest.mark.parametrize("use_cache", [True, False])
@pytest.mark.parametrize("family", ["llama", "gemma3", "mamba"])
def test_reuse_gives_the_tokens_of_a_cold_run_with_the_same_interventions(
    make_lm: MakeLM, family: str, use_cache: bool
) -> None:
    """Steered in the second turn and not in the third, the history keeps its steered positions."""
    lm = make_lm(family)
    generator = tt.ManualGenerator(lm.model, lm.tokenizer)
    generator.cache_system_prompt("Be kind.")
    said, logits = [], []
    for turn in range(3):
        if turn == 1:
            generator.intervene(intervention("steer"))
        if turn == 2:
            generator.withdraw("it")
        prompt = generator.conversation.extend([message(f"And {turn}?")])
        result = generator.run_turn(
            prompt,
            chosen(lm, use_cache, callback=lambda token, row: logits.append(row)),
        )
        said.append(result.token_ids)
    expected = COLD.setdefault(family, (said, logits))

    assert said == expected[0]
    assert torch.allclose(torch.stack(logits), torch.stack(expected[1]), atol=1e-2)


COLD: dict[str, Any] = {}


def message(text: str) -> Any:
    from tokentape.generation.history.messages import NewMessage

    return NewMessage(role="user", content=text)


def chosen(lm: tt.LoadedModel, use_cache: bool, **given: Any) -> Any:
    from tokentape.generation.engine.turn import turn_settings

    return turn_settings(lm.model, max_new_tokens=4, do_sample=False, use_cache=use_cache, **given)


def test_the_cache_distinguishes_the_interventions_it_was_computed_with(lm: tt.LoadedModel) -> None:
    """The same ids with and without steering are two prefixes; both are found again."""
    generator = tt.ManualGenerator(lm.model, lm.tokenizer)
    ids = random_ids(20, 1)

    def decided() -> Any:
        return generator.generate(ids, max_new_tokens=2, **GREEDY)["cache"]

    decided()
    generator.intervene(intervention("steer", positions=(8, 99)))
    steered = decided()
    again = decided()
    generator.withdraw("it")
    back = decided()

    assert (steered.reason, steered.key_field) == ("interventions_differ", "interventions")
    assert (steered.decision, steered.reused_tokens, steered.divergence_index) == ("partial", 8, 8)
    assert steered.divergence_cached_id == steered.divergence_prompt_id == ids[8]
    assert (again.reused_tokens, back.reused_tokens) == (19, 19)


def test_a_cache_given_by_the_caller_keeps_its_interventions(lm: tt.LoadedModel) -> None:
    generator = tt.ManualGenerator(lm.model, lm.tokenizer)
    other = tt.ManualGenerator(lm.model, lm.tokenizer)
    ids = random_ids(20, 1)
    generator.intervene(intervention("steer", positions=(8, 99)))
    given = generator.generate(ids, max_new_tokens=2, **GREEDY, return_cache=True)
    cache = given["past_key_values"]
    assert cache is not None
    plain = other.generate(ids, max_new_tokens=2, **GREEDY, past_key_values=cache)["cache"]
    other.intervene(intervention("steer", positions=(8, 99)))
    steered = other.generate(ids, max_new_tokens=2, **GREEDY, past_key_values=cache)["cache"]

    assert cache.ids == (*ids, given["generated_tokens"][0])
    assert (plain.reason, plain.reused_tokens) == ("interventions_differ", 8)
    assert (steered.reason, steered.reused_tokens) == ("covers_prompt", 19)


def test_positions_with_interventions_are_never_written_to_disk(
    lm: tt.LoadedModel, tmp_path: Path
) -> None:
    """Only the positions before it are stored, and a steered prompt finds them, too."""
    ids = random_ids(30, 1)
    first = tt.ManualGenerator(lm.model, lm.tokenizer, prefix_folder=tmp_path)
    first.intervene(intervention("steer", positions=(10, 99)))
    first.generate(ids, max_new_tokens=2, **GREEDY)
    assert first.store_prefix()
    other = tt.ManualGenerator(lm.model, lm.tokenizer, prefix_folder=tmp_path)
    plain = other.generate(ids, max_new_tokens=2, **GREEDY)["cache"]
    third = tt.ManualGenerator(lm.model, lm.tokenizer, prefix_folder=tmp_path)
    third.intervene(intervention("steer", positions=(5, 99)))
    steered = third.generate(ids, max_new_tokens=2, **GREEDY)["cache"]

    assert (plain.source, plain.reused_tokens) == ("disk", 10)
    assert (steered.source, steered.reused_tokens) == ("disk", 5)


def test_salt_can_be_stripped_from_ids() -> None:
    asked = active(intervention("steer"), 2, 4)
    ids = (5, 6, 7, 8, 9)
    with_marks = salt_ids(ids, [asked])

    assert [a == b for a, b in zip(with_marks, ids, strict=True)] == [
        True,
        True,
        False,
        False,
        True,
    ]
    assert strip_salt(with_marks) == ids
    assert salt_ids(ids, []) == ids
    assert salt_ids((), [asked]) == ()
