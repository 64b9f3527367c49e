"""Runs with chat templates that have difficult traits: recorded, resumed, forked, verified."""

import itertools
import json
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from transformers import LogitsProcessorList

import tokentape as tt
from tests.generation.calling_models import TOOLS
from tests.generation.made_templates import MADE
from tests.generation.templated_runs import CALLING, CALLS, FIRST, LOOK, OTHERS, SYSTEM, THIRD, Says
from tokentape.generation.history.conversation import Conversation
from tokentape.generation.history.conversation_format import ConversationFormat
from tokentape.generation.history.format_probe import choose_format
from tokentape.generation.history.messages import AnsweredCall, NewMessage
from tokentape.recorder.projections import Turn
from tokentape.replay.rerecord import rerecord
from tokentape.store import DatabaseStore


@pytest.mark.parametrize("history", ["exact", "template"])
@pytest.mark.parametrize("trait", MADE)
def test_a_run_is_recorded_resumed_the_next_day_forked_and_verified(
    trait: str,
    history: str,
    store: DatabaseStore,
    lm_with: Callable[[str], tt.LoadedModel],
    on_day: Callable[[int], None],
) -> None:
    made = MADE[trait]
    lm = lm_with(made.template)
    says = LogitsProcessorList([Says(lm.tokenizer, made)])
    tokens = 60 if made.first_reply else 4
    on_day(1)
    with tt.Investigation(
        lm, store=store, name="t", system_prompt=SYSTEM, tools=TOOLS, history=history, **CALLS
    ) as run:
        run.chat(FIRST, max_new_tokens=tokens, tool_calls=[LOOK], logits_processor=says)
        reply = run.chat(CALLING, max_new_tokens=60, logits_processor=says)
        run.chat(THIRD, max_new_tokens=4, do_sample=True)
    on_day(2)
    with tt.Investigation.resume(store, run.run_id, lm, tools=TOOLS) as resumed:
        resumed.chat(OTHERS[1], max_new_tokens=4)
    with tt.Investigation.fork(store, run.run_id, lm, at_turn=2, tools=TOOLS) as fork:
        fork.chat(OTHERS[2], max_new_tokens=4)

    assert [each.content for each in reply.tool_results] == ['"about sun"']
    recording = store.recording(run.run_id)
    assert tt.verify(recording, lm, processors=lambda *_: says).passes
    assert tt.verify(store.recording(fork.run_id), lm, processors=lambda *_: says).passes
    turns = list(recording.turns())
    assert_texts_are_written(turns)
    if history == "exact":
        assert_history_is_extended(trait, turns)


def assert_texts_are_written(turns: Sequence[Turn]) -> None:
    assert SYSTEM in turns[0].prompt_text
    for turn in turns:
        for message in turn.messages:
            quoted = json.dumps(message.content, ensure_ascii=False)[1:-1]
            assert message.content in turn.prompt_text or quoted in turn.prompt_text


def assert_history_is_extended(trait: str, turns: Sequence[Turn]) -> None:
    """Check that no prompt is encoded again unless that cannot be avoided.

    It cannot if the tools move to the newest question, and if nothing tells where a call ends that
    the model did not write as the template does.
    """
    reasons = {turn.started.history_reason for turn in turns}
    again = trait in ("tools move", "results within the reply")
    assert reasons <= ({"", "template_rewrote_history"} if again else {""})
    for before, after in itertools.pairwise(turns):
        if not after.started.history_reason:
            ids = (*before.prompt_ids, *before.reply_ids)
            assert after.prompt_ids[: len(ids)] == ids


@pytest.mark.parametrize(
    "trait", [name for name in MADE if name not in {"channels", "no empty reply"}]
)
def test_prompts_of_the_template_history_are_the_renderings_of_the_template(
    trait: str, store: DatabaseStore, lm_with: Callable[[str], tt.LoadedModel]
) -> None:
    made = MADE[trait]
    lm = lm_with(made.template)
    says = LogitsProcessorList([Says(lm.tokenizer, made)])
    with tt.Investigation(
        lm, store=store, name="t", system_prompt=SYSTEM, tools=TOOLS, history="template", **CALLS
    ) as run:
        for question in (FIRST, CALLING, THIRD):
            looked = [LOOK] if question == FIRST else []
            run.chat(question, max_new_tokens=30, tool_calls=looked, logits_processor=says)
            messages = run.generator.conversation.messages
            tools = list(run.generator.conversation.format.tools)
            rendered = lm.tokenizer.apply_chat_template(
                messages[:-1], tools=tools or None, add_generation_prompt=True, tokenize=False
            )
            assert store.recording(run.run_id).turns()[-1].prompt_text == rendered


@pytest.mark.parametrize("trait", MADE)
def test_the_chosen_format_is_recorded_with_its_reasons(
    trait: str, lm_with: Callable[[str], tt.LoadedModel], store: DatabaseStore
) -> None:
    made = MADE[trait]
    lm = lm_with(made.template)
    with tt.Investigation(
        lm, store=store, name="t", system_prompt=SYSTEM, tools=TOOLS, **CALLS
    ) as run:
        pass
    record = store.recording(run.run_id).started().conversation_format
    usual = ConversationFormat().to_record() | {"call_ids": "recorded"}
    chosen = {name: value for name, value in record.items() if value != usual[name]}
    reasons = chosen.pop("reasons", {})

    assert {**chosen, "tools": bool(record["tools"])} == {"tools": False} | dict(made.chosen)
    assert set(reasons) == set(chosen) - {"call_arguments"}
    assert ConversationFormat.from_record(record) == run.generator.conversation.format


def test_an_empty_system_prompt_leaves_the_conversation_without_one(
    store: DatabaseStore, lm_with: Callable[[str], tt.LoadedModel]
) -> None:
    lm = lm_with(MADE["no system role"].template)
    with tt.Investigation(lm, store=store, name="t", system_prompt="", tools=TOOLS) as run:
        run.chat(FIRST, max_new_tokens=4, tool_calls=[LOOK])
    with tt.Investigation.resume(store, run.run_id, lm, tools=TOOLS) as resumed:
        resumed.chat(THIRD, max_new_tokens=4)
    recording = store.recording(run.run_id)

    assert recording.turns()[0].prompt_text.startswith(f"<|im_start|>user\n{FIRST}")
    assert [each["role"] for each in recording.conversation()][:1] == ["user"]
    assert tt.verify(recording, lm).passes
    again = rerecord(recording, lm, store)
    assert store.recording(again).turns()[0].prompt_ids == recording.turns()[0].prompt_ids


@pytest.mark.parametrize("history", ["exact", "template"])
@pytest.mark.parametrize("trait", ["date in the system prompt", "date at the end"])
def test_an_unfinished_turn_is_finished_the_next_day_with_the_same_tokens(
    trait: str,
    history: str,
    store: DatabaseStore,
    lm_with: Callable[[str], tt.LoadedModel],
    on_day: Callable[[int], None],
) -> None:
    lm = lm_with(MADE[trait].template)
    settings: dict[str, Any] = {"max_new_tokens": 8, "do_sample": True}
    given: dict[str, Any] = {"system_prompt": SYSTEM, "history": history, "seed": 3}
    on_day(1)
    with tt.Investigation(lm, store=store, name="whole", **given) as whole:
        whole.chat(FIRST, **settings)
        reply = whole.chat(THIRD, **settings)
    seen: list[int] = []

    def stop(token_id: int, logits: torch.Tensor) -> None:
        seen.append(token_id)
        if len(seen) == 3:
            raise KeyboardInterrupt

    run = tt.Investigation(lm, store=store, name="cut", **given)
    with pytest.raises(KeyboardInterrupt), run:
        run.chat(FIRST, **settings)
        run.chat(THIRD, callback=stop, **settings)
    on_day(2)
    with tt.Investigation.resume(store, run.run_id, lm) as resumed:
        assert resumed.resumed_reply is not None
        assert resumed.resumed_reply.token_ids == reply.token_ids
        resumed.chat("Fourth question.", max_new_tokens=4)
    assert tt.verify(store.recording(run.run_id), lm).passes


def test_another_chat_template_continues_a_run_with_a_warning_if_it_writes_the_same(
    store: DatabaseStore, lm_with: Callable[[str], tt.LoadedModel]
) -> None:
    plain = MADE["plain"].template
    with tt.Investigation(
        lm_with(plain), store=store, name="t", system_prompt=SYSTEM, history="exact"
    ) as run:
        run.chat(FIRST, max_new_tokens=4)
    other = lm_with("{# a comment #}" + plain)
    with pytest.warns(UserWarning, match="another chat template"):
        resumed = tt.Investigation.resume(store, run.run_id, other)
    with resumed:
        assert resumed.chat(THIRD, max_new_tokens=4).cache.reason != "template_rewrote_history"
    different = lm_with(plain.replace("<|im_end|>\n", "<|im_end|>"))
    with (
        pytest.warns(UserWarning, match="another chat template"),
        pytest.raises(tt.RecordingError, match="recorded chat template"),
    ):
        tt.Investigation.resume(store, run.run_id, different).__enter__()


PRUNED = {"roles alternate": "prune_tool_results", "date in the system prompt": "prune_turns"}


@pytest.mark.parametrize("history", ["exact", "template"])
@pytest.mark.parametrize("trait", PRUNED)
def test_a_history_is_pruned_before_and_after_a_run_is_resumed(
    trait: str,
    history: str,
    store: DatabaseStore,
    lm_with: Callable[[str], tt.LoadedModel],
    on_day: Callable[[int], None],
) -> None:
    made = MADE[trait]
    lm = lm_with(made.template)
    says = LogitsProcessorList([Says(lm.tokenizer, made)])
    on_day(1)
    with tt.Investigation(
        lm,
        store=store,
        name="t",
        system_prompt=SYSTEM,
        tools=TOOLS,
        history=history,
        at_context_limit=PRUNED[trait],
        context_budget_tokens=380,
        **CALLS,
    ) as run:
        for _ in range(4):
            run.chat(CALLING, max_new_tokens=30, logits_processor=says)
    on_day(2)
    with tt.Investigation.resume(store, run.run_id, lm, tools=TOOLS) as resumed:
        resumed.chat(CALLING, max_new_tokens=30, logits_processor=says)
    recording = store.recording(run.run_id)
    pruned = [each.number for each in recording.turns() if each.pruned is not None]

    assert min(pruned) <= 4 < max(pruned)
    assert tt.verify(recording, lm, processors=lambda *_: says).passes


@pytest.mark.parametrize("trait", MADE)
def test_the_system_prompt_is_cached_before_the_first_question(
    trait: str, store: DatabaseStore, lm_with: Callable[[str], tt.LoadedModel]
) -> None:
    lm = lm_with(MADE[trait].template)
    with tt.Investigation(
        lm, store=store, name="t", system_prompt=SYSTEM, tools=TOOLS, **CALLS
    ) as run:
        cached = run.generator.system_prompt_length
        text = run.generator.conversation.text
        reply = run.chat(FIRST, max_new_tokens=2)

    assert SYSTEM in text
    assert reply.cache.reused_tokens == cached > 0


def test_a_call_that_the_model_writes_as_the_template_does_is_not_encoded_again(
    store: DatabaseStore, lm_with: Callable[[str], tt.LoadedModel]
) -> None:
    """Check a template that writes contents after results, and opens them if none is there."""
    opens = MADE["results within the reply"].template.replace(
        "{% endif %}{% endfor %}{% if add",
        "{% endif %}{% if loop.last and m['tool_calls'] and messages[-1]['role'] != 'tool' %}"
        "<response>{% endif %}{% endfor %}{% if add",
    )
    assert opens != MADE["results within the reply"].template
    conversation = Conversation(
        lm_with(opens).tokenizer,
        conversation_format=choose_format(
            lm_with(opens).tokenizer, tools=TOOLS.get_available_tools()
        ),
    )
    conversation.restart(SYSTEM)
    asked = conversation.extend([NewMessage(role="user", content=CALLING)])
    conversation.begin_turn(asked)
    conversation.finish_turn((40, 41), "Look.<call>look_up</call>", "")
    call = AnsweredCall(
        call_id="call_1",
        name="look_up",
        arguments={"name": "sun"},
        text="<call>look_up</call>",
        by_model=True,
    )
    answered = conversation.extend([NewMessage(role="tool", content="Hot.", call=call)])

    assert answered.history_reason == ""
    assert answered.text.removeprefix(conversation.text) == "<response>look_up: Hot.</response>"
