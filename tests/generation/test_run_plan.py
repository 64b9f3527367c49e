"""A plan runs unattended to its end, and a resumed run continues it."""

from collections.abc import Callable
from typing import Any

import pytest

import tokentape as tt
from tests.made_plans import short_plan
from tokentape.generation.plans import (
    ExperimentPlan,
    PlanTurn,
    begin_plan,
    load_plan,
    plan_tools,
    run_plan,
    turns_for_model,
)
from tokentape.recorder.events import HistoryPruned, ToolCalled
from tokentape.store import DatabaseStore

# As small as it gets: the prompts of a shipped plan have ten thousand bytes.
SMALL = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 32768,
}
Make = Callable[..., tt.LoadedModel]
SHORT = short_plan(system_prompt="Look. {tools} {memory}", limits={"max_new_tokens": 3})


def short(**fields: Any) -> ExperimentPlan:
    return ExperimentPlan.read({**SHORT, **fields}, "short.yaml")


@pytest.mark.parametrize("name", ["phase1a", "phase1b", "phase1c", "phase1d", "phase1e"])
def test_a_shipped_plan_runs_its_twenty_turns_and_is_rebuilt(
    make_lm: Make, store: DatabaseStore, name: str
) -> None:
    lm = make_lm("llama", **SMALL)
    plan = load_plan(name).with_overrides(max_new_tokens=2)
    with begin_plan(plan, lm, store) as run:
        replies = run_plan(run, plan)
    recording = store.recording(run.run_id)
    rebuilt = tt.rebuild(recording)
    said = [each.content for each in recording.messages() if each.role == "user"]

    assert [reply.turn for reply in replies] == list(range(1, 21))
    assert [turn.reply_ids for turn in rebuilt.turns] == [reply.token_ids for reply in replies]
    assert said == [turn.message for turn in plan.turns()]
    assert not [result.error for reply in replies for result in reply.tool_results if result.error]
    assert ExperimentPlan.from_described(recording.started().settings["plan"]) == plan


def test_a_plan_continues_after_the_turns_that_the_run_has_had(
    lm: tt.LoadedModel, store: DatabaseStore
) -> None:
    plan = short()
    told: list[PlanTurn] = []

    def give_up(turn: PlanTurn, reply: tt.Reply) -> None:
        told.append(turn)
        if turn.number == 2:
            raise RuntimeError

    with begin_plan(plan, lm, store) as run:
        with pytest.raises(RuntimeError):
            run_plan(run, plan, progress=give_up)
        rest = run_plan(run, plan, progress=lambda turn, reply: told.append(turn))
        nothing = run_plan(run, plan)
    with begin_plan(plan, lm, store) as whole:
        replies = run_plan(whole, plan)

    assert [turn.number for turn in told] == [1, 2, 3]
    assert [reply.turn for reply in rest] == [3]
    assert rest[0].token_ids == replies[2].token_ids
    assert nothing == ()


def test_the_callback_gets_each_token(lm: tt.LoadedModel, store: DatabaseStore) -> None:
    plan = short()
    heard: list[int] = []
    with begin_plan(plan, lm, store) as run:
        replies = run_plan(run, plan, callback=lambda token_id, logits: heard.append(token_id))

    assert heard == [token_id for reply in replies for token_id in reply.token_ids]


def test_tools_are_called_with_the_model_s_own_names(make_lm: Make, store: DatabaseStore) -> None:
    plan = short()
    lm = make_lm("gpt2")
    with begin_plan(plan, lm, store) as run:
        replies = run_plan(run, plan)
    events = [each.event for each in store.recording(run.run_id).events()]
    (called,) = [event for event in events if isinstance(event, ToolCalled)]

    assert called.arguments["layer_name"] == "transformer.h.1.mlp.c_proj.weight"
    assert replies[0].tool_results[0].error is None


def test_a_plan_that_outgrows_the_context_is_pruned_as_it_says(
    make_lm: Make, store: DatabaseStore
) -> None:
    lm = make_lm("llama", max_position_embeddings=1600)
    limits = {"max_new_tokens": 300}
    refusing = short(limits=limits, sampling={"min_new_tokens": 300})
    pruning = short(
        limits=limits | {"at_context_limit": "prune_turns"}, sampling={"min_new_tokens": 300}
    )
    with begin_plan(pruning, lm, store) as run:
        assert len(run_plan(run, pruning)) == 3
    events = [each.event for each in store.recording(run.run_id).events()]

    assert any(isinstance(event, HistoryPruned) for event in events)
    with begin_plan(refusing, lm, store) as run, pytest.raises(tt.PromptError):
        run_plan(run, refusing)


def test_a_plan_that_does_not_fit_the_model_is_rejected_before_the_first_turn(
    lm: tt.LoadedModel, store: DatabaseStore
) -> None:
    calls = [{"name": "get_weight_statistics", "arguments": {"layer_name": "{layer:9}"}}]
    far = short(tasks=[{"title": "T", "turns": ["?", {"message": "?", "tool_calls": calls}]}])
    wrong = short(sampling={"do_sample": True, "temperature": "hot"})

    with pytest.raises(tt.PromptError, match=r"short, turn 2: \{layer:9\}"):
        begin_plan(far, lm, store)
    with begin_plan(short(), lm, store) as run:
        with pytest.raises(
            tt.PromptError, match=r"short, turn 2: \{layer:9\}: the model has 3 lay"
        ):
            run_plan(run, far)
        assert run.generator.turn == 0
    with pytest.raises(tt.PromptError, match="short, turn 1: "):
        turns_for_model(wrong, lm.model, lm.tokenizer)


def test_a_setting_without_effect_is_refused_in_a_new_plan_and_accepted_in_a_recorded_one(
    lm: tt.LoadedModel, store: DatabaseStore
) -> None:
    idle = short(sampling={"temperature": 0.7})
    with pytest.raises(tt.PromptError, match=r"short, turn 1: temperature=0\.7 has no effect"):
        begin_plan(idle, lm, store)
    assert store.summaries() == []

    by_choice = short(sampling={"temperature": 0.7, "do_sample": False})
    with begin_plan(by_choice, lm, store) as run:
        run.chat(by_choice.turns()[0].message, max_new_tokens=2)
    tools = plan_tools(idle, tt.default_tools(lm))
    with tt.Investigation.resume(store, run.run_id, lm, tools=tools) as resumed:
        assert len(run_plan(resumed, idle)) == len(idle.turns()) - 1


def test_a_model_gets_only_the_tools_that_a_plan_names(
    lm: tt.LoadedModel,
) -> None:
    def weigh(thing: str) -> str:
        """
        Weigh something.

        Args:
            thing: What to weigh.
        """
        return thing

    def count(thing: str) -> str:
        """
        Count something.

        Args:
            thing: What to count.
        """
        return thing

    tools = tt.ToolInterface([weigh, count])
    chosen = plan_tools(short(tools=["count"], tasks=[{"title": "T", "turns": ["?"]}]), tools)

    assert [schema["name"] for schema in chosen.get_available_tools()] == ["count"]
    assert "weigh" not in chosen.documentation()
    assert chosen.call("count", {"thing": "x"}).error is None
    assert "there is no tool 'weigh'" in str(chosen.call("weigh", {"thing": "x"}).error)
    assert len(tools.get_available_tools()) == 2
    with pytest.raises(tt.PromptError, match="short: there is no tool 'get_weight_statistics'"):
        plan_tools(short(), tools)
