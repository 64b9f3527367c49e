"""Replies that the experimenter begins."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

import tokentape as tt
from tests.generation.made_runs import SETTINGS, begin
from tests.generation.test_fork_at_token import passes
from tests.generation.test_resume import CutOff, Killed
from tokentape.generation.history.chosen_tokens import chosen_token, encode_reply_prefix
from tokentape.store import DatabaseStore

PREFIX = "I think"
SAMPLED: dict[str, Any] = {"do_sample": True, "temperature": 0.9, "top_k": 40}


@pytest.mark.parametrize("family", ["llama", "qwen3", "gpt2", "gemma3", "mamba"])
def test_greedy_tokens_after_a_prefix_are_those_of_generate(
    make_lm: Callable[..., tt.LoadedModel], family: str
) -> None:
    lm = make_lm(family)
    generator = tt.ManualGenerator(lm.model, lm.tokenizer)
    generator.cache_system_prompt("Be kind.")
    result = generator.generate(
        "Why?", max_new_tokens=16, do_sample=False, reply_prefix=PREFIX, return_cache=False
    )
    prompt = generator.conversation.own_prompt("Why?")
    prefix = lm.tokenizer.encode(PREFIX, add_special_tokens=False)
    ids = torch.tensor([[*prompt.ids, *prefix]])
    output = lm.model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=16 - len(prefix),
        do_sample=False,
    )

    assert result["generated_tokens"] == output[0, len(prompt.ids) :].tolist()
    assert result["generated_text"].startswith(PREFIX)


@pytest.mark.parametrize("settings", [SAMPLED, {"do_sample": False, "repetition_penalty": 1.3}])
def test_a_begun_reply_is_recorded_and_replayed(
    lm: tt.LoadedModel, store: DatabaseStore, settings: dict[str, Any]
) -> None:
    with begin(lm, store) as run:
        reply = run.chat("Why?", reply_prefix=PREFIX, max_new_tokens=12, **settings)
        run.chat("And now?", max_new_tokens=4, **settings)
    recording = store.recording(run.run_id)
    turn, other = recording.turns()
    prefix = tuple(lm.tokenizer.encode(PREFIX, add_special_tokens=False))

    assert reply.text.startswith(PREFIX)
    assert reply.token_ids[: len(prefix)] == turn.started.forced_ids == prefix
    assert turn.forced_steps == tuple(range(len(prefix)))
    assert other.forced_steps == ()
    assert [each.logprob for each in turn.tokens[:7]] == [
        each.logprob_processed for each in turn.tokens[:7]
    ]
    assert passes(recording, lm)
    assert tt.check(store, run.run_id).ok


def test_each_token_of_a_prefix_uses_one_draw(lm: tt.LoadedModel, store: DatabaseStore) -> None:
    """A reply that begins with its own tokens is the same reply."""
    with begin(lm, store) as run:
        free = run.chat("Why?", max_new_tokens=12, **SAMPLED)
    with tt.Investigation.fork(
        store, run.run_id, lm, at_turn=1, tools=tt.default_tools(lm)
    ) as fork:
        (turn,) = store.recording(run.run_id).turns()
        begun = fork._run_turn("Why?", (), tt_settings(turn), free.token_ids[:5])

    assert begun.token_ids == free.token_ids
    assert store.recording(fork.run_id).turns()[0].forced_steps == (0, 1, 2, 3, 4)


def tt_settings(turn: Any) -> Any:
    from tokentape.generation.investigation.recorded_settings import recorded_settings

    return recorded_settings(turn)


def test_a_begun_reply_that_is_killed_after_any_token_resumes(lm: tt.LoadedModel) -> None:
    with tt.open_store("sqlite://") as store:
        with begin(lm, store) as run:
            whole = run.chat("Why?", reply_prefix=PREFIX, max_new_tokens=10, **SAMPLED)
        events = len(list(store.recording(run.run_id).own_events()))
        for cut in range(4, events):
            with pytest.raises(Killed), begin(lm, CutOff(store, cut)) as killed:
                killed.chat("Why?", reply_prefix=PREFIX, max_new_tokens=10, **SAMPLED)
            tools = tt.default_tools(lm)
            with tt.Investigation.resume(store, killed.run_id, lm, tools=tools) as resumed:
                reply = resumed.resumed_reply
            recording = store.recording(killed.run_id)
            if recording.turns():
                assert [each.reply_ids for each in recording.turns()] == [whole.token_ids], cut
                assert reply is None or reply.text == whole.text
                assert tt.retrace(recording, lm).verdict is tt.Verdict.EXACT, cut


def test_a_retaken_turn_keeps_its_prefix_or_takes_another(
    lm: tt.LoadedModel, store: DatabaseStore
) -> None:
    with begin(lm, store) as run:
        run.chat("Why?", reply_prefix=PREFIX, max_new_tokens=12, **SAMPLED)
    (turn,) = store.recording(run.run_id).turns()
    for prefix, text in ((None, PREFIX), ("No", "No"), ("", "")):
        with tt.Investigation.fork(
            store, run.run_id, lm, at_turn=1, tools=tt.default_tools(lm)
        ) as fork:
            reply = fork.retake(turn, reply_prefix=prefix)
        (retaken,) = store.recording(fork.run_id).turns()
        assert reply.text.startswith(text)
        assert len(retaken.forced_steps) == len(text)


def test_a_reply_can_be_forked_within_its_prefix_and_after(
    lm: tt.LoadedModel, store: DatabaseStore
) -> None:
    with begin(lm, store) as run:
        run.chat("Why?", reply_prefix=PREFIX, max_new_tokens=12, **SAMPLED)
    for token in (3, 9):
        with tt.Investigation.fork(
            store, run.run_id, lm, at_turn=1, at_token=token, tools=tt.default_tools(lm)
        ) as fork:
            pass
        first, last = store.recording(fork.run_id).turns()
        assert len(first.forced_steps) == min(token, len(PREFIX))
        assert last.forced_steps == ()
        assert passes(store.recording(fork.run_id), lm)


def test_a_prefix_that_cannot_begin_a_reply_is_refused(
    lm: tt.LoadedModel, store: DatabaseStore
) -> None:
    with begin(lm, store) as run:
        with pytest.raises(tt.PromptError, match="7 tokens, and max_new_tokens=3 counts them"):
            run.chat("Why?", reply_prefix=PREFIX, max_new_tokens=3)
        with pytest.raises(tt.PromptError, match="must be a text, not a int"):
            run.chat("Why?", reply_prefix=7)  # type: ignore[arg-type]
        with pytest.raises(tt.ModelError, match="unpaired surrogate"):
            run.chat("Why?", reply_prefix="\ud800")
        reply = run.chat("Why?", reply_prefix="a<|im_end|>b", max_new_tokens=8, **SETTINGS)
    # A control token in the prefix is one: it ends the reply.
    assert (reply.text, reply.stop_reason) == ("a", "eos")
    assert passes(store.recording(run.run_id), lm)


@pytest.mark.demo_model
def test_texts_of_tokens_depend_on_the_text_before(demo_lm: tt.LoadedModel) -> None:
    tokenizer = demo_lm.tokenizer
    size = demo_lm.model.get_input_embeddings().num_embeddings
    no = chosen_token(tokenizer, "I say", " no", size)
    assert tokenizer.decode([no]) == " no"
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert chosen_token(tokenizer, "", "<|im_end|>", size) == end
    with pytest.raises(tt.PromptError, match=r"is 2 tokens, not one: ' no' \(\d+\), ' way'"):
        chosen_token(tokenizer, "I say", " no way", size)
    assert tokenizer.decode(encode_reply_prefix(tokenizer, "assistant\n", " no way")) == " no way"


def test_a_turn_of_a_plan_begins_its_reply(lm: tt.LoadedModel, store: DatabaseStore) -> None:
    from tokentape.generation.plans import ExperimentPlan, begin_plan, run_plan
    from tokentape.generation.plans.runner import check_plan

    turn = {"message": "Why?", "reply_prefix": PREFIX}
    written = {"name": "p", "system_prompt": "Be kind.", "tasks": [{"title": "t", "turns": [turn]}]}
    plan = ExperimentPlan.read(written, "p.yaml").with_overrides(max_new_tokens=9)
    with begin_plan(plan, lm, store) as run:
        (reply,) = run_plan(run, plan)

    assert reply.text.startswith(PREFIX)
    recorded = store.recording(run.run_id).started().settings["plan"]
    assert ExperimentPlan.from_described(recorded) == plan
    with pytest.raises(tt.PromptError, match="turn 1: reply_prefix has 7 tokens"):
        check_plan(plan.with_overrides(max_new_tokens=5), lm)


def test_a_run_with_a_begun_reply_is_recorded_again(
    lm: tt.LoadedModel, store: DatabaseStore
) -> None:
    from tokentape.replay.rerecord import rerecord

    with begin(lm, store) as run:
        whole = run.chat("Why?", reply_prefix=PREFIX, max_new_tokens=12, **SAMPLED)
    with tt.open_store("sqlite://") as other:
        again = rerecord(store.recording(run.run_id), lm, other)
        (turn,) = other.recording(again).turns()
    assert (turn.reply_ids, turn.started.forced_ids) == (whole.token_ids, whole.token_ids[:7])
    with tt.Investigation.fork(
        store, run.run_id, lm, at_turn=1, at_token=4, tools=tt.default_tools(lm)
    ) as fork:
        pass
    with pytest.raises(tt.ReplayError, match="from a token on"):
        rerecord(store.recording(fork.run_id), lm, store)
