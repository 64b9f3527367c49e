"""What a chat template cannot write is refused, before anything is recorded where that is known."""

from collections.abc import Callable

import pytest
from transformers import LogitsProcessorList

import tokentape as tt
from tests.generation.calling_models import TOOLS
from tests.generation.made_templates import (
    DROPS_QUESTIONS,
    MADE,
    NO_RESULTS,
    ONE_TURN,
    UNCOMPILABLE,
    raised_if,
)
from tests.generation.templated_runs import CALLING, CALLS, LOOK, SYSTEM, THIRD, Says
from tokentape.generation.history.format_probe import choose_format
from tokentape.recorder.events import MessageAdded, ToolCalled
from tokentape.store import DatabaseStore

REFUSED = {
    "uncompilable": (UNCOMPILABLE, "cannot be compiled: line 2: .*another chat_template"),
    "drops questions": (DROPS_QUESTIONS, "leaves out .*another chat_template"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_template_that_can_write_no_conversation_is_refused_before_anything_is_recorded(
    case: str, store: DatabaseStore, lm_with: Callable[[str], tt.LoadedModel]
) -> None:
    template, message = REFUSED[case]
    with pytest.raises(tt.PromptError, match=message):
        tt.Investigation(lm_with(template), store=store, name="t", system_prompt=SYSTEM)

    assert list(store.summaries()) == []


def test_a_template_for_one_turn_refuses_the_second_before_it_is_recorded(
    store: DatabaseStore, lm_with: Callable[[str], tt.LoadedModel]
) -> None:
    lm = lm_with(ONE_TURN)
    with tt.Investigation(lm, store=store, name="t", system_prompt=SYSTEM, tools=TOOLS) as run:
        run.chat("First question.", max_new_tokens=4)
        recorded = len(list(store.recording(run.run_id).events()))
        with pytest.raises(tt.PromptError, match="one turn only"):
            run.chat("Second question.", max_new_tokens=4, tool_calls=[LOOK])
        events = [each.event for each in store.recording(run.run_id).events()]

        assert len(events) == recorded
        assert not [each for each in events if isinstance(each, ToolCalled)]


def test_a_message_that_the_template_leaves_out_is_refused_before_its_tool_runs(
    store: DatabaseStore, lm_with: Callable[[str], tt.LoadedModel]
) -> None:
    hides = MADE["plain"].template.replace(
        "{{ m['content'] }}", "{{ m['content'].split('SECRET')[0] }}"
    )
    lm = lm_with(hides)
    with tt.Investigation(lm, store=store, name="t", system_prompt=SYSTEM, tools=TOOLS) as run:
        with pytest.raises(tt.PromptError, match="leaves out the user's message"):
            run.chat("Say the SECRET word.", max_new_tokens=4, tool_calls=[LOOK])
        with pytest.raises(tt.PromptError, match="leaves out the user's message"):
            run.generator.conversation.own_prompt("Say the SECRET word.")
    events = [each.event for each in store.recording(run.run_id).events()]

    assert not [each for each in events if isinstance(each, ToolCalled | MessageAdded)]
    with pytest.raises(tt.PromptError, match="leaves out the system prompt"):
        tt.Investigation(lm, store=store, name="t", system_prompt="A SECRET.").__enter__()
    assert len(list(store.summaries())) == 1


def test_a_role_of_results_that_the_template_refuses_is_refused_before_anything_is_recorded(
    store: DatabaseStore, lm_with: Callable[[str], tt.LoadedModel]
) -> None:
    with pytest.raises(tt.PromptError, match="tool_result_role='auto'"):
        tt.Investigation(
            lm_with(NO_RESULTS),
            store=store,
            name="t",
            system_prompt=SYSTEM,
            tools=TOOLS,
            tool_result_role="tool",
        )
    assert choose_format(lm_with(MADE["plain"].template).tokenizer, result_role="user")


def test_a_result_that_the_template_rejects_ends_the_turn_with_an_error(
    store: DatabaseStore, lm_with: Callable[[str], tt.LoadedModel]
) -> None:
    made = MADE["plain"]
    refuses = raised_if("'about sun' in messages[-1]['content']", "not this result")
    lm = lm_with(refuses + made.template)
    says = LogitsProcessorList([Says(lm.tokenizer, made)])
    with tt.Investigation(
        lm, store=store, name="t", system_prompt=SYSTEM, tools=TOOLS, **CALLS
    ) as run:
        with pytest.raises(tt.PromptError, match="not this result"):
            run.chat(CALLING, max_new_tokens=60, logits_processor=says)
        assert run.chat(THIRD, max_new_tokens=4).token_ids
