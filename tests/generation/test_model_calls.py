"""Calls that a model makes in the middle of its turn, in each format, and what can go wrong."""

import copy
import json
from collections.abc import Mapping

import pytest

import tokentape as tt
from tests.generation.calling_models import (
    begun,
    call,
    events,
    says,
    several,
    status,
)
from tests.generation.test_tool_calls import QWEN_TEMPLATE
from tokentape.generation.errors import ToolFailedWarning
from tokentape.recorder.events import (
    CacheDecided,
    MessageAdded,
    ToolCalled,
    ToolReturned,
    TurnStarted,
)
from tokentape.store import DatabaseStore

FORMATS = ("hermes", "llama3", "mistral", "python", "response_template")


TOOL_LESS = (
    "{% for message in messages %}"
    "{% if message['role'] not in ('system', 'user', 'assistant') %}"
    "{{ raise_exception('there is no role ' + message['role']) }}{% endif %}"
    "<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


DEAF = TOOL_LESS.replace(
    "{{ raise_exception('there is no role ' + message['role']) }}{% endif %}", "{% else %}"
).replace("{% endfor %}", "{% endif %}{% endfor %}")


def speaking(lm: tt.LoadedModel, call_format: str) -> tt.LoadedModel:
    """Return the model with a tokenizer that reads calls in the format."""
    if call_format != "response_template":
        return lm
    tokenizer = copy.deepcopy(lm.tokenizer)
    tokenizer.response_template = QWEN_TEMPLATE
    return tt.LoadedModel(lm.model, tokenizer, lm.name)


def templated(lm: tt.LoadedModel, chat_template: str) -> tt.LoadedModel:
    tokenizer = copy.deepcopy(lm.tokenizer)
    tokenizer.chat_template = chat_template
    return tt.LoadedModel(lm.model, tokenizer, lm.name)


@pytest.mark.parametrize("call_format", FORMATS)
def test_a_call_in_the_middle_of_a_turn_is_run_and_the_model_continues_after_its_result(
    lm: tt.LoadedModel, store: DatabaseStore, call_format: str
) -> None:
    lm = speaking(lm, call_format)
    written = call(call_format, name="é")
    forced = says(lm, f"Let me see.\n{written}", "It is é.")
    with begun(lm, store, call_format) as run:
        reply = run.chat("What is it?", max_new_tokens=200, logits_processor=forced)
    recording = store.recording(run.run_id)
    called, returned = events(store, run, ToolCalled, ToolReturned)
    step = len(reply.rounds[0].token_ids)

    assert reply.text == f"Let me see.\n{written}It is é."
    assert [part.stop_reason for part in reply.rounds] == ["tool_call", "eos"]
    assert (reply.stop_reason, [each.content for each in reply.tool_results]) == (
        "eos",
        ['"about é"'],
    )
    assert (called.caller, called.turn, called.step) == ("model", 1, step)
    assert called.text in written
    assert called.arguments == {"name": "é"}
    assert (returned.turn, returned.error, returned.content) == (1, None, '"about é"')
    assert [each.first_step for each in events(store, run, TurnStarted)] == [0, step]
    assert [(each.role, each.turn) for each in events(store, run, MessageAdded)] == [
        ("user", None),
        ("tool", 1),
    ]
    first, second = events(store, run, CacheDecided)[-2:]
    # What was sampled last has not been put through the model when the turn pauses.
    assert second.reused_tokens == first.prompt_tokens + step - 1
    assert (second.decision, second.cropped_tokens) == ("hit", 0)
    opened, resumed = tt.rebuild(recording).turns
    assert resumed.prompt_ids == reply.rounds[1].prompt.ids
    assert resumed.prompt_ids[: len(opened.prompt_ids) + step] == (
        *opened.prompt_ids,
        *reply.rounds[0].token_ids,
    )
    report = tt.verify(recording, lm, processors=lambda turn: forced)
    assert report.verdict == tt.Verdict.VERIFIED


BROKEN: Mapping[str, Mapping[str, str]] = {
    "hermes": {
        "no JSON": "<tool_call>{'name': 'look_up'}</tool_call>",
        "cut off": '<tool_call>{"name": "look_up", "arg',
    },
    "llama3": {
        "no JSON": '{"name": "look_up", "parameters": {"name": "a",}}',
        "cut off": '{"name": "look_up", "parameters": {"name": ',
    },
    "mistral": {
        "no JSON": '[TOOL_CALLS] [{"name": "look_up", "arguments": {"name": "a",}}]',
        "cut off": '[TOOL_CALLS] [{"name": "look_up", "arguments": {',
    },
    "python": {
        "no JSON": "[look_up(name=open('a'))]",
        "cut off": "[look_up(name='a'",
    },
    "response_template": {
        "no JSON": "<tool_call>{'name': 'look_up'}</tool_call>",
        "cut off": '<tool_call>{"name": "look_up"',
    },
}


@pytest.mark.parametrize("call_format", FORMATS)
def test_a_malformed_call_gets_an_error_as_result_and_the_turn_continues(
    lm: tt.LoadedModel, store: DatabaseStore, call_format: str
) -> None:
    lm = speaking(lm, call_format)
    broken = {
        **BROKEN[call_format],
        "another tool": call(call_format, "look_at", name="a"),
        "no argument": call(call_format),
    }
    forced = says(lm, *broken.values(), call(call_format, name="a"), "Done.", "Yes.")
    with begun(lm, store, call_format) as run:
        reply = run.chat("What is it?", max_new_tokens=500, logits_processor=forced)
        more = run.chat("Sure?", max_new_tokens=20, logits_processor=forced)
    errors = dict(zip(broken, (each.error for each in reply.tool_results), strict=False))
    messages = [each for each in events(store, run, MessageAdded) if each.role == "tool"]
    returned = events(store, run, ToolReturned)

    assert (reply.stop_reason, more.stop_reason, more.text) == ("eos", "eos", "Yes.")
    assert [part.stop_reason for part in reply.rounds] == [
        "tool_call",
        "eos",
        *["tool_call"] * 3,
        "eos",
    ]
    assert all(errors.values()), errors
    assert "did you mean 'look_up'?" in str(errors["another tool"])
    assert "name" in str(errors["no argument"])
    assert reply.tool_results[-1].error is None
    assert [json.loads(each.content)["error"] for each in messages[:-1]] == list(errors.values())
    assert [each.error for each in returned] == [*errors.values(), None]
    for each, text in zip(events(store, run, ToolCalled), broken.values(), strict=False):
        assert each.text
        assert each.text in text
    assert status(store, run) == "finished"
    report = tt.verify(store.recording(run.run_id), lm, processors=lambda turn: forced)
    assert report.verdict == tt.Verdict.VERIFIED


@pytest.mark.parametrize("call_format", ["mistral", "python"])
def test_several_calls_at_once_are_all_run_before_the_model_continues(
    lm: tt.LoadedModel, store: DatabaseStore, call_format: str
) -> None:
    forced = says(lm, several(call_format, "a", "b"), "Both.")
    with begun(lm, store, call_format) as run:
        reply = run.chat("What are they?", max_new_tokens=300, logits_processor=forced)
    messages = events(store, run, MessageAdded)

    assert [each.content for each in reply.tool_results] == ['"about a"', '"about b"']
    assert [each.tool_call_id for each in messages] == [None, "call_1", "call_2"]
    assert len(reply.rounds) == 2
    report = tt.verify(store.recording(run.run_id), lm, processors=lambda turn: forced)
    assert report.verdict == tt.Verdict.VERIFIED


@pytest.mark.parametrize("call_format", ["hermes", "llama3", "response_template"])
def test_several_calls_in_sequence_are_rounds_of_one_turn(
    lm: tt.LoadedModel, store: DatabaseStore, call_format: str
) -> None:
    lm = speaking(lm, call_format)
    calls = [call(call_format, name=name) for name in "abc"]
    with begun(lm, store, call_format) as run:
        reply = run.chat(
            "What are they?", max_new_tokens=400, logits_processor=says(lm, *calls, "All.")
        )

    assert [each.content for each in reply.tool_results] == [f'"about {name}"' for name in "abc"]
    assert [each.turn for each in events(store, run, TurnStarted)] == [1] * 4
    assert [each.step for each in events(store, run, ToolCalled)] == [
        sum(len(part.token_ids) for part in reply.rounds[:count]) for count in (1, 2, 3)
    ]


def test_a_tool_that_fails_or_exceeds_a_limit_does_not_end_the_turn(
    lm: tt.LoadedModel, store: DatabaseStore
) -> None:
    calls = [call("hermes", name) for name in ("fail", "dawdle", "ramble")]
    with begun(lm, store) as run, pytest.warns(ToolFailedWarning) as told:
        reply = run.chat("Try.", max_new_tokens=400, logits_processor=says(lm, *calls, "Well."))
    failed, late, cut = events(store, run, ToolReturned)

    assert reply.text.endswith("Well.")
    assert (failed.error, late.error) == (
        "RuntimeError('nothing there')",
        "no answer within 0.02 s",
    )
    assert json.loads(late.content) == {"error": late.error}
    assert [each.category for each in told].count(ToolFailedWarning) == 2
    assert cut.error is None
    assert "characters are left out" in cut.content
    assert len(cut.content) <= 200 < cut.payload_bytes
    assert status(store, run) == "finished"


@pytest.mark.parametrize("chat_template", [TOOL_LESS, DEAF], ids=["refuses", "leaves out"])
def test_without_a_tool_role_in_the_template_results_are_user_messages(
    lm: tt.LoadedModel, store: DatabaseStore, chat_template: str
) -> None:
    lm = templated(lm, chat_template)
    forced = says(lm, call("hermes", name="a"), "So.")
    with begun(lm, store) as run:
        reply = run.chat("What is it?", max_new_tokens=200, logits_processor=forced)
    recording = store.recording(run.run_id)

    assert reply.text.endswith("So.")
    assert '<|im_start|>user\n"about a"' in reply.rounds[1].prompt.text
    assert recording.started().settings["tool_result_role"] == "user"
    assert [each.role for each in events(store, run, MessageAdded)] == ["user", "user"]
    assert [each.describe() for each in events(store, run, MessageAdded)] == [
        "user: What is it?",
        None,
    ]
    report = tt.verify(recording, lm, processors=lambda turn: forced)
    assert report.verdict == tt.Verdict.VERIFIED


def test_the_template_history_is_rendered_again_around_calls(
    lm: tt.LoadedModel, store: DatabaseStore
) -> None:
    forced = says(lm, call("hermes", name="a"), "So.", "Yes.")
    with begun(lm, store, history="template") as run:
        reply = run.chat("What is it?", max_new_tokens=200, logits_processor=forced)
        more = run.chat("Sure?", max_new_tokens=20, logits_processor=forced)
    recording = store.recording(run.run_id)
    first, second, third = tt.rebuild(recording).turns

    assert (reply.text.endswith("So."), more.text) == (True, "Yes.")
    assert [each.prompt_ids for each in (first, second, third)] == [
        part.prompt.ids for part in (*reply.rounds, *more.rounds)
    ]
    assert '<|im_start|>tool\n"about a"<|im_end|>' in third.prompt_text
    report = tt.verify(recording, lm, processors=lambda turn: forced)
    assert report.verdict == tt.Verdict.VERIFIED
