"""The length of a context is read from the whole config, and a user's setting overrules it."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import BloomConfig, BloomForCausalLM

import tokentape as tt
from benchmarks.tiny_models import random_ids
from tests.generation.cold_runs import GREEDY
from tokentape.generation.context_length import context_tokens, position_table_tokens
from tokentape.store import DatabaseStore

THETA = {"rope_theta": 10000.0}
ORIGINAL = {"original_max_position_embeddings": 64}
LONG = {"short_factor": [1.0] * 8, "long_factor": [2.0] * 8}
# The maximum in the config, the parameters of RoPE, and the length of the context.
SCALED: list[tuple[int, dict[str, Any], int]] = [
    (64, {"rope_type": "default"}, 64),
    (64, {"rope_type": "linear", "factor": 4.0}, 256),
    (64, {"rope_type": "dynamic", "factor": 4.0}, 256),
    (64, {"rope_type": "yarn", "factor": 4.0}, 256),
    (64, {"rope_type": "yarn", "factor": 4.0} | ORIGINAL, 256),
    (256, {"rope_type": "yarn", "factor": 4.0} | ORIGINAL, 256),
    (256, {"rope_type": "longrope", **LONG} | ORIGINAL, 256),
    (64, {"rope_type": "longrope", "factor": 4.0, **LONG} | ORIGINAL, 256),
    (
        256,
        {"rope_type": "llama3", "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
        | ORIGINAL,
        256,
    ),
]


@pytest.mark.parametrize(("maximum", "rope", "length"), SCALED)
def test_scaled_rope_reaches_as_far_as_generate_does(
    maximum: int,
    rope: dict[str, Any],
    length: int,
    make_lm: Callable[..., tt.LoadedModel],
    store: DatabaseStore,
) -> None:
    lm = make_lm("llama", max_position_embeddings=maximum, rope_parameters={**THETA, **rope})
    assert context_tokens(lm.model) == length
    ids = random_ids(length - 5, seed=1)
    expected = lm.model.generate(torch.tensor([ids]), max_new_tokens=5, do_sample=False)[0, -5:]

    generator = tt.ManualGenerator(lm.model, lm.tokenizer, tt.Recorder(store))
    reply = generator.generate(ids, max_new_tokens=5, do_sample=False)

    assert reply["generated_tokens"] == expected.tolist()[: reply["num_tokens"]]
    recording = store.recording(store.summaries()[0].run_id)
    assert recording.started().context_tokens == length
    assert tt.regenerate(recording, lm).verdict is tt.Verdict.EXACT
    with pytest.raises(tt.PromptError, match=f"context of {length}"):
        generator.generate(ids, max_new_tokens=6)


def test_the_config_of_the_text_is_asked_and_each_type_of_layer(
    make_lm: Callable[..., tt.LoadedModel],
) -> None:
    rope = {"full_attention": {**THETA, "rope_type": "yarn", "factor": 2.0, **ORIGINAL}}
    config = make_lm("llama", max_position_embeddings=64).model.config

    class Outer:
        def get_text_config(self, decoder: bool = False) -> Any:
            return config

    config.rope_parameters = rope | {"sliding_attention": {**THETA, "rope_type": "default"}}
    model = type("Model", (), {"config": Outer()})()
    assert context_tokens(model) == 128
    config.rope_parameters["full_attention"] |= {"rope_type": "linear", "factor": 8.0}
    config.model_type = "gemma3_text"
    assert context_tokens(model) == 64


def test_a_history_is_pruned_at_the_length_that_yarn_reaches(
    make_lm: Callable[..., tt.LoadedModel], store: DatabaseStore
) -> None:
    """Not at the 64 positions that the model was trained with."""
    rope = {**THETA, "rope_type": "yarn", "factor": 4.0, **ORIGINAL}
    lm = make_lm("llama", max_position_embeddings=64, rope_parameters=rope)
    with tt.Investigation(
        lm, store=store, name="long", system_prompt="Hi.", at_context_limit="prune_turns"
    ) as run:
        for _ in range(6):
            run.chat("word " * 6, **GREEDY)

    turns = store.recording(run.run_id).turns()
    lengths = [len(turn.prompt_ids) for turn in turns]
    assert 64 < max(lengths) <= 256 - GREEDY["max_new_tokens"]
    assert [turn.number for turn in turns if turn.pruned]
    assert tt.verify(store.recording(run.run_id), lm).verdict is tt.Verdict.VERIFIED


def test_alibi_has_no_limit(tokenizer: Any) -> None:
    config = BloomConfig(vocab_size=272, hidden_size=32, n_layer=1, n_head=2, seq_length=16)
    model = BloomForCausalLM(config).eval()

    assert context_tokens(model) is None
    config.max_position_embeddings = 16
    config.alibi = True
    assert context_tokens(model) is None
    reply = tt.ManualGenerator(model, tokenizer).generate(random_ids(40, seed=1), **GREEDY)
    assert reply["num_tokens"] > 0


def test_a_setting_overrules_the_config(
    make_lm: Callable[..., tt.LoadedModel], store: DatabaseStore
) -> None:
    lm = make_lm("llama", max_position_embeddings=64)
    ids = random_ids(90, seed=1)
    with tt.Investigation(
        lm, store=store, name="n", system_prompt="x" * 80, context_tokens=400, history="exact"
    ) as run:
        run.chat("Hello", max_new_tokens=3)
    assert store.recording(run.run_id).started().context_tokens == 400
    with tt.Investigation.resume(store, run.run_id, lm) as resumed:
        resumed.chat("Hello", max_new_tokens=3)
    with tt.Investigation.fork(store, run.run_id, lm, at_turn=2, context_tokens=200) as fork:
        fork.chat("Hello", max_new_tokens=3)
        with pytest.raises(tt.PromptError):
            fork.chat("Hello", max_new_tokens=150)
    assert tt.verify(store.recording(run.run_id), lm).verdict is tt.Verdict.VERIFIED

    generator = tt.ManualGenerator(lm.model, lm.tokenizer, context_tokens=80)
    with pytest.raises(tt.PromptError, match="set context_tokens"):
        generator.generate(ids, **GREEDY)


def test_learned_positions_cannot_be_exceeded(make_lm: Callable[..., tt.LoadedModel]) -> None:
    lm = make_lm("gpt2", n_positions=64)
    assert (context_tokens(lm.model), position_table_tokens(lm.model)) == (64, 64)

    generator = tt.ManualGenerator(lm.model, lm.tokenizer, context_tokens=65)
    with pytest.raises(tt.ModelError, match="learned only 64 positions"):
        generator.generate("Hello", **GREEDY)
