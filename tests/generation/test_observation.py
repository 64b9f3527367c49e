"""Observation during a conversation: observers, monitors, and tools that read activations."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

import tokentape as tt
from tokentape.generation.errors import ToolFailedWarning
from tokentape.recorder.events import ActivationObserved
from tokentape.store import DatabaseStore

SAMPLED: dict[str, Any] = {"do_sample": True, "temperature": 0.9}


def begin(lm: tt.LoadedModel, store: DatabaseStore, **settings: Any) -> tt.Investigation:
    return tt.Investigation(
        lm, store=store, name="watched", system_prompt="Be kind.", seed=6, **settings
    )


@pytest.mark.parametrize("family", ["llama", "gpt2", "mamba"])
def test_an_observer_gets_the_logits_that_the_token_was_sampled_from(
    make_lm: Callable[..., tt.LoadedModel], store: DatabaseStore, family: str
) -> None:
    lm = make_lm(family)
    states: list[tt.GenerationState] = []
    with begin(lm, store) as run:
        run.chat("Hello?", max_new_tokens=3)
        run.chat(
            "And now?", max_new_tokens=5, observer=states.append, observe_layers=[-1], **SAMPLED
        )
    tokens = store.recording(run.run_id).turns()[1].tokens

    assert [state.step for state in states] == [0, 1, 2, 3, 4]
    assert [state.finished for state in states] == [False] * 4 + [True]
    for state, token in zip(states, tokens, strict=True):
        logprobs = torch.log_softmax(state.logits, dim=-1)
        assert logprobs[token.token_id].item() == pytest.approx(token.logprob, abs=1e-6)
        assert state.entropy == token.entropy
        (name,) = state.hidden_states
        head = lm.model.get_output_embeddings()
        norm = {"llama": "model.norm", "gpt2": "transformer.ln_f", "mamba": "backbone.norm_f"}
        hidden = lm.model.get_submodule(norm[family])(state.hidden_states[name])
        assert torch.allclose(head(hidden), state.logits, atol=1e-4), name


def test_a_monitor_records_every_forward_and_changes_no_token(
    lm: tt.LoadedModel, store: DatabaseStore
) -> None:
    replies = []
    for watched in (False, True):
        with begin(lm, store) as run:
            replies.append(run.chat("Hello?", max_new_tokens=6, **SAMPLED))
            if watched:
                run.watch([0, "blocks.2.hook_mlp_out"])
            replies.append(run.chat("More?", max_new_tokens=6, **SAMPLED))
    recording = store.recording(run.run_id)
    seen = [each.event for each in recording.events() if isinstance(each.event, ActivationObserved)]
    prompt = recording.turns()[1]

    assert [reply.token_ids for reply in replies[:2]] == [reply.token_ids for reply in replies[2:]]
    assert replies[3].cache.reused_tokens == replies[1].cache.reused_tokens > 0
    assert [event.source for event in seen] == ["prefill"] + ["decode"] * 5
    assert {event.turn for event in seen} == {2}
    assert prompt.cache is not None
    assert (seen[0].start, seen[0].end) == (prompt.cache.reused_tokens, len(prompt.prompt_ids))
    assert seen[0].positions_covered == prompt.cache.computed_tokens
    assert [event.start for event in seen[1:]] == [token.position for token in prompt.tokens[:-1]]
    assert set(seen[0].statistics) == {"model.layers.0", "model.layers.2.mlp"}
    assert tt.verify(recording, lm).verdict == tt.Verdict.VERIFIED
    assert tt.check(store, run.run_id).ok


def test_a_tool_finds_observed_activations_or_recomputes_them(
    lm: tt.LoadedModel, store: DatabaseStore
) -> None:
    def ask(**arguments: Any) -> tt.ToolCall:
        return tt.ToolCall(
            name="get_activation_statistics", arguments={"layer_name": "1"} | arguments
        )

    with begin(lm, store, tools=tt.default_tools(lm)) as run:
        run.chat("Hello?", max_new_tokens=4)
        with pytest.warns(ToolFailedWarning, match="use recompute=True"):
            unwatched = run.chat("Well?", tool_calls=[ask()], max_new_tokens=4)
        second = run.chat("Again?", tool_calls=[ask(recompute=True)], max_new_tokens=4)
        run.watch([1])
        run.chat("Watch.", max_new_tokens=4)
        seen = run.chat("And?", tool_calls=[ask()], max_new_tokens=4)
    recording = store.recording(run.run_id)
    events = [
        each.event for each in recording.events() if isinstance(each.event, ActivationObserved)
    ]
    recomputed = [event for event in events if event.source == "recomputed"]

    assert "recompute" in unwatched.tool_results[0].content
    assert '"recomputed"' in second.tool_results[0].content
    assert '"decode"' in seen.tool_results[0].content
    assert len(recomputed) == 1
    assert recomputed[0].start == 0
    assert recomputed[0].positions_covered == recomputed[0].end
    assert tt.verify(recording, lm).verdict == tt.Verdict.VERIFIED


def test_a_tool_recomputes_with_the_interventions_of_the_first_computation(
    lm: tt.LoadedModel, store: DatabaseStore
) -> None:
    call = tt.ToolCall(
        name="get_activation_statistics", arguments={"layer_name": "1", "recompute": True}
    )
    contents = []
    for coefficient in (1.0, 3.0):
        with begin(lm, store, tools=tt.default_tools(lm)) as run:
            run.intervene(tt.Intervention.scale("louder", ["model.layers.1"], coefficient))
            run.chat("Hello?", max_new_tokens=4, do_sample=False)
            reply = run.chat("Well?", tool_calls=[call], max_new_tokens=4)
            contents.append(reply.tool_results[0])

    assert contents[0].error is None
    assert contents[0].content != contents[1].content


def test_the_memory_of_each_round_is_sampled(lm: tt.LoadedModel, store: DatabaseStore) -> None:
    with begin(lm, store) as run:
        run.chat("Hello?", max_new_tokens=4)
        run.chat("Hello?", max_new_tokens=4)
    samples = [
        each.event
        for each in store.recording(run.run_id).events()
        if type(each.event).__name__ == "MemorySampled"
    ]

    assert [sample.turn for sample in samples] == [1, 2]  # type: ignore[union-attr]
    assert samples[1].kv_bytes >= samples[0].kv_bytes > 0  # type: ignore[union-attr]
    assert all(sample.process_bytes > 10**7 for sample in samples)  # type: ignore[union-attr]
