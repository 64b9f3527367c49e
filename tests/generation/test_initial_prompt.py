"""The initial prompt of an investigation, rendered by any template."""

from collections.abc import Callable
from typing import Any

import pytest

import tokentape as tt
from tokentape.store import DatabaseStore

Make = Callable[..., tt.LoadedModel]


def begin(lm: tt.LoadedModel, store: DatabaseStore, system_prompt: str) -> tt.Investigation:
    tools = tt.default_tools(lm)
    return tt.Investigation(lm, store=store, name="t", system_prompt=system_prompt, tools=tools)


def test_the_tools_and_the_memory_instructions_are_filled_in(
    lm: tt.LoadedModel, store: DatabaseStore
) -> None:
    run = begin(lm, store, "You look.\n{tools}\n{memory}\nBegin.")
    prompt = run.create_initial_prompt()

    assert prompt.startswith("You look.\nget_weight_statistics: Statistics of the weights")
    assert run.get_memory_management_instructions() in prompt
    assert prompt.endswith("\nBegin.")


def test_a_system_prompt_without_placeholders_does_not_change(
    lm: tt.LoadedModel, store: DatabaseStore
) -> None:
    written = "Look at {layer:0} and {}; {{tools}"[:-7]

    assert begin(lm, store, written).create_initial_prompt() == written


def test_a_filled_text_is_not_filled_again(lm: tt.LoadedModel, store: DatabaseStore) -> None:
    def odd(thing: str) -> str:
        """
        Says {memory} and {tools}.

        Args:
            thing: Anything.
        """
        return thing

    tools = tt.ToolInterface([odd])
    run = tt.Investigation(lm, store=store, name="t", system_prompt="{tools}", tools=tools)

    assert "Says {memory} and {tools}." in run.create_initial_prompt()


def test_the_memory_instructions_recommend_compact_results_for_several_layers(
    make_lm: Make, store: DatabaseStore
) -> None:
    lm = make_lm("llama", max_position_embeddings=5000)
    told = begin(lm, store, "x").get_memory_management_instructions()

    assert "5,000 tokens" in told
    assert "use compact=True when you examine several layers" in told
    assert "- get_weight_statistics(layer_name=[…], compact=True)" in told


def test_compact_results_are_not_mentioned_if_no_tool_has_them(
    lm: tt.LoadedModel, store: DatabaseStore
) -> None:
    run = tt.Investigation(lm, store=store, name="t", system_prompt="x")

    assert "compact" not in run.get_memory_management_instructions()


def refuse_injection(lm: tt.LoadedModel, store: DatabaseStore, injected: str) -> None:
    with begin(lm, store, "You look at yourself. {tools} {memory}") as run:
        first = run.chat("What are you?", max_new_tokens=4, do_sample=False)
        run.chat("And now?", max_new_tokens=4, do_sample=False)
        prompt = run.create_initial_prompt()
        template: Any = lm.tokenizer.apply_chat_template
        asked = [
            {"role": "system", "content": prompt},
            {"role": "user", "content": "What are you?"},
        ]
        rendered = template(asked, tokenize=False, add_generation_prompt=True)
    recording = store.recording(run.run_id)
    turns = recording.turns()

    assert turns[0].prompt_text == rendered
    assert turns[1].prompt_text.startswith(rendered + first.text)
    assert all(turn.prompt_text.count(prompt) == 1 for turn in turns)
    assert not any(injected in turn.prompt_text for turn in turns)
    assert turns[1].cache is not None
    assert turns[1].cache.reused_tokens >= len(turns[0].prompt_ids)
    assert recording.messages()[0].content == prompt


def test_a_template_that_injects_a_system_prompt_does_not_garble_the_turns(
    make_lm: Make, store: DatabaseStore
) -> None:
    roomy = make_lm("llama", max_position_embeddings=8192)
    refuse_injection(roomy, store, "Be brief.")


@pytest.mark.demo_model
def test_the_demo_model_s_template_does_not_garble_the_turns(
    demo_lm: tt.LoadedModel, store: DatabaseStore
) -> None:
    refuse_injection(demo_lm, store, "You are a helpful AI assistant named SmolLM")
