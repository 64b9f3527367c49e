"""Calls that a model makes in the middle of its turn, in each format, and what can go wrong."""

import copy
import json
import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
from transformers import LogitsProcessorList

import tokentape as tt
from tests.forced import forced_reply
from tests.generation.test_tool_calls import QWEN_TEMPLATE
from tokentape.recorder.events import (
    CacheDecided,
    HistoryPruned,
    InterventionRequested,
    MessageAdded,
    RunFinished,
    ToolCalled,
    ToolReturned,
    TurnFinished,
    TurnStarted,
)
from tokentape.recorder.transcript import told
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


@tt.tool
def look_up(name: str) -> str:
    """
    Look something up.

    Args:
        name: What to look for.
    """
    return f"about {name}"


@tt.tool
def fail() -> str:
    """Fail."""
    raise RuntimeError("nothing there")


@tt.tool(seconds_max=0.02)
def dawdle() -> str:
    """Take too long."""
    time.sleep(0.2)
    return "late"


@tt.tool(output_chars_max=200)
def ramble() -> str:
    """Say too much."""
    return "word " * 200


TOOLS = tt.ToolInterface([look_up, fail, dawdle, ramble])


def call(call_format: str, name: str = "look_up", /, **arguments: Any) -> str:
    """A call, as a model writes it in that format."""
    given = json.dumps(arguments)
    literals = ", ".join(f"{key}={value!r}" for key, value in arguments.items())
    return {
        "hermes": f'<tool_call>\n{{"name": "{name}", "arguments": {given}}}\n</tool_call>',
        "llama3": f'{{"name": "{name}", "parameters": {given}}}',
        "mistral": f'[TOOL_CALLS] [{{"name": "{name}", "arguments": {given}}}]',
        "python": f"[{name}({literals})]",
        "response_template": f'<tool_call>{{"name": "{name}", "arguments": {given}}}</tool_call>',
    }[call_format]


def several(call_format: str, *names: str) -> str:
    """Calls in one piece, which only two formats have."""
    if call_format == "python":
        return "[" + ", ".join(f"look_up(name={name!r})" for name in names) + "]"
    calls = [{"name": "look_up", "arguments": {"name": name}} for name in names]
    return f"[TOOL_CALLS] {json.dumps(calls)}"


def says(lm: tt.LoadedModel, *texts: str) -> LogitsProcessorList:
    return LogitsProcessorList([forced_reply(lm.tokenizer, texts)])


def speaking(lm: tt.LoadedModel, call_format: str) -> tt.LoadedModel:
    """The model with a tokenizer that reads calls in the format."""
    if call_format != "response_template":
        return lm
    tokenizer = copy.deepcopy(lm.tokenizer)
    tokenizer.response_template = QWEN_TEMPLATE
    return tt.LoadedModel(lm.model, tokenizer, lm.name)


def templated(lm: tt.LoadedModel, chat_template: str) -> tt.LoadedModel:
    tokenizer = copy.deepcopy(lm.tokenizer)
    tokenizer.chat_template = chat_template
    return tt.LoadedModel(lm.model, tokenizer, lm.name)


def begun(
    lm: tt.LoadedModel, store: DatabaseStore, call_format: str = "hermes", **settings: Any
) -> tt.Investigation:
    return tt.Investigation(
        lm,
        store=store,
        name="calls",
        system_prompt="Be kind.",
        tool_call_format=call_format,
        **{"tools": TOOLS, **settings},
    )


def muting(runs: Sequence[tt.Investigation], **settings: Any) -> tt.ToolInterface:
    """A tool that steps into the newest of the runs, which may not have begun yet."""

    def mute() -> str:
        """
        Mute a layer.
        """
        runs[-1].intervene(tt.Intervention.ablate("mute", 1), **settings)
        return "muted"

    return tt.ToolInterface([mute])


def events(store: DatabaseStore, run: tt.Investigation, *kinds: type) -> list[Any]:
    every = [each.event for each in store.recording(run.run_id).events()]
    return [each for each in every if not kinds or isinstance(each, kinds)]


def status(store: DatabaseStore, run: tt.Investigation) -> str:
    summary = store.summary(run.run_id)
    assert summary is not None
    return summary.status


@pytest.mark.parametrize("call_format", FORMATS)
def test_a_call_in_the_middle_of_a_turn_is_run_and_the_model_goes_on_behind_its_result(
    lm: tt.LoadedModel, store: DatabaseStore, call_format: str
) -> None:
    lm = speaking(lm, call_format)
    written = call(call_format, name="é")
    forced = says(lm, f"Let me see.\n{written}", "It is é.")
    with begun(lm, store, call_format) as run:
        reply = run.chat("What is it?", max_new_tokens=200, logits_processor=forced)
    recording = store.recording(run.run_id)
    called, returned = events(store, run, ToolCalled, ToolReturned)
    step = len(reply.parts[0].token_ids)

    assert reply.text == f"Let me see.\n{written}It is é."
    assert [part.stop_reason for part in reply.parts] == ["tool_call", "eos"]
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
    assert resumed.prompt_ids == reply.parts[1].prompt.ids
    assert resumed.prompt_ids[: len(opened.prompt_ids) + step] == (
        *opened.prompt_ids,
        *reply.parts[0].token_ids,
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
def test_a_broken_call_comes_back_as_an_error_and_the_turn_goes_on(
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
    assert [part.stop_reason for part in reply.parts] == [
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
def test_several_calls_at_once_are_all_run_before_the_model_goes_on(
    lm: tt.LoadedModel, store: DatabaseStore, call_format: str
) -> None:
    forced = says(lm, several(call_format, "a", "b"), "Both.")
    with begun(lm, store, call_format) as run:
        reply = run.chat("What are they?", max_new_tokens=300, logits_processor=forced)
    messages = events(store, run, MessageAdded)

    assert [each.content for each in reply.tool_results] == ['"about a"', '"about b"']
    assert [each.tool_call_id for each in messages] == [None, "call_1", "call_2"]
    assert len(reply.parts) == 2
    report = tt.verify(store.recording(run.run_id), lm, processors=lambda turn: forced)
    assert report.verdict == tt.Verdict.VERIFIED


@pytest.mark.parametrize("call_format", ["hermes", "llama3", "response_template"])
def test_several_calls_one_after_the_other_are_parts_of_one_turn(
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
        sum(len(part.token_ids) for part in reply.parts[:count]) for count in (1, 2, 3)
    ]


def test_a_tool_that_fails_dawdles_or_rambles_does_not_end_the_turn(
    lm: tt.LoadedModel, store: DatabaseStore
) -> None:
    calls = [call("hermes", name) for name in ("fail", "dawdle", "ramble")]
    with begun(lm, store) as run:
        reply = run.chat("Try.", max_new_tokens=400, logits_processor=says(lm, *calls, "Well."))
    failed, late, cut = events(store, run, ToolReturned)

    assert reply.text.endswith("Well.")
    assert (failed.error, late.error) == (
        "RuntimeError('nothing there')",
        "no answer within 0.02 s",
    )
    assert json.loads(late.content) == {"error": late.error}
    assert cut.error is None
    assert "characters are left out" in cut.content
    assert len(cut.content) <= 200 < cut.payload_bytes
    assert status(store, run) == "finished"


def test_a_model_that_calls_for_ever_ends_its_turn(
    lm: tt.LoadedModel, store: DatabaseStore
) -> None:
    forced = says(lm, *[call("hermes", name="a")] * 9)
    with begun(lm, store, tool_calls_max=3) as run:
        reply = run.chat("Go.", max_new_tokens=900, logits_processor=forced)
    assert len(reply.tool_results) == len(events(store, run, ToolReturned)) == 3
    assert (len(reply.parts), reply.stop_reason) == (4, "eos")
    assert reply.parts[-1].text == call("hermes", name="a")


@pytest.mark.parametrize("call_format", ["mistral", "python"])
def test_calls_at_once_do_not_go_beyond_the_limit(
    lm: tt.LoadedModel, store: DatabaseStore, call_format: str
) -> None:
    forced = says(lm, several(call_format, "a", "b", "c"), "So.")
    with begun(lm, store, call_format, tool_calls_max=2) as run:
        reply = run.chat("Go.", max_new_tokens=400, logits_processor=forced)
        more = run.chat("And?", max_new_tokens=10, logits_processor=says(lm, "", "", "Yes."))

    ran = [each for each in reply.tool_results if each.error is None]
    assert [each.content for each in ran] == ['"about a"', '"about b"']
    assert "a turn may make 2 calls" in str(reply.tool_results[2].error)
    assert (len(reply.tool_results), len(reply.parts)) == (3, 2)
    assert reply.text.endswith("So.")
    assert more.text == "Yes."


def test_a_model_that_may_not_call_is_not_listened_to(
    lm: tt.LoadedModel, store: DatabaseStore
) -> None:
    forced = says(lm, call("hermes", name="a") + " and so on")
    with begun(lm, store, tool_calls_max=0) as run:
        reply = run.chat("Go.", max_new_tokens=200, logits_processor=forced)

    assert reply.text.endswith("</tool_call> and so on")
    assert len(reply.parts) == 1
    assert events(store, run, ToolCalled) == []


def test_new_tokens_are_counted_over_all_parts(lm: tt.LoadedModel, store: DatabaseStore) -> None:
    written = call("hermes", name="a")
    forced = says(lm, written, "0123456789")
    with begun(lm, store) as run:
        reply = run.chat("Go.", max_new_tokens=len(written) + 4, logits_processor=forced)
        none_left = run.chat(
            "Go.", max_new_tokens=len(written), logits_processor=says(lm, "", "", written)
        )

    assert reply.text == f"{written}0123"
    assert (len(reply.token_ids), reply.stop_reason) == (len(written) + 4, "max_new_tokens")
    assert [each.sampling["max_new_tokens"] for each in events(store, run, TurnStarted)[:2]] == [
        len(written) + 4,
        4,
    ]
    # Nobody is left to read the result of a call that takes the last token.
    assert none_left.tool_results == ()
    assert len(none_left.token_ids) == len(written)


def test_a_result_that_does_not_fit_ends_the_turn_and_not_the_run(
    lm: tt.LoadedModel, store: DatabaseStore
) -> None:
    forced = says(lm, call("hermes", "ramble"), "Well.")
    with begun(lm, store, context_budget_tokens=260) as run:
        reply = run.chat("Go.", max_new_tokens=120, logits_processor=forced)
        more = run.chat("And?", max_new_tokens=10, logits_processor=says(lm, "", "Yes."))

    assert (len(reply.parts), reply.stop_reason) == (1, "tool_call")
    assert len(reply.tool_results) == len(events(store, run, ToolReturned)) == 1
    assert more.text == "Yes."
    assert status(store, run) == "finished"


@pytest.mark.parametrize("role", ["tool", "user"])
def test_a_result_is_made_to_fit_by_taking_out_older_ones(
    lm: tt.LoadedModel, store: DatabaseStore, role: str
) -> None:
    forced = says(lm, *[call("hermes", "ramble")] * 3, "Well.")
    settings = {"context_budget_tokens": 900, "at_context_limit": "prune_tool_results"}
    with begun(lm, store, behaviour={"tool_result_role": role}, **settings) as run:
        reply = run.chat("Go.", max_new_tokens=300, logits_processor=forced)
    recording = store.recording(run.run_id)
    pruned = events(store, run, HistoryPruned)

    assert reply.text.endswith("Well.")
    assert len(reply.tool_results) == 3
    assert {(each.turn, each.policy) for each in pruned} == {(1, "tool_results")}
    assert tt.rebuild(recording).turns[-1].prompt_ids == reply.parts[-1].prompt.ids
    report = tt.verify(recording, lm, processors=lambda turn: forced)
    assert report.verdict == tt.Verdict.VERIFIED


@pytest.mark.parametrize("role", ["tool", "user"])
@pytest.mark.parametrize(
    ("first", "second", "parts"), [(80, 1, 2), (1, 70, 1)], ids=["a turn goes", "none is enough"]
)
def test_the_question_that_a_call_is_made_for_is_not_taken_out(
    lm: tt.LoadedModel, store: DatabaseStore, first: int, second: int, parts: int, role: str
) -> None:
    settings = {"context_budget_tokens": 900, "at_context_limit": "prune_turns"}
    forced = says(lm, "", call("hermes", "ramble"))
    role_of_results = {"tool_result_role": role}
    with begun(lm, store, behaviour=role_of_results, tool_calls_max=1, **settings) as run:
        run.chat("First? " * first, max_new_tokens=4)
        reply = run.chat("Second? " * second, max_new_tokens=150, logits_processor=forced)

    *_, last = (part.prompt.text for part in reply.parts)
    assert "Second?" in last
    assert "First?" in reply.parts[0].prompt.text
    assert len(reply.parts) == parts
    assert [each.turn for each in events(store, run, HistoryPruned)] == [2] * (parts - 1)


@pytest.mark.parametrize("chat_template", [TOOL_LESS, DEAF], ids=["refuses", "leaves out"])
def test_where_the_template_has_no_tools_results_are_a_users_message(
    lm: tt.LoadedModel, store: DatabaseStore, chat_template: str
) -> None:
    lm = templated(lm, chat_template)
    forced = says(lm, call("hermes", name="a"), "So.")
    with begun(lm, store) as run:
        reply = run.chat("What is it?", max_new_tokens=200, logits_processor=forced)
    recording = store.recording(run.run_id)

    assert reply.text.endswith("So.")
    assert '<|im_start|>user\n"about a"' in reply.parts[1].prompt.text
    assert recording.started().behaviour["tool_result_role"] == "user"
    assert [each.role for each in events(store, run, MessageAdded)] == ["user", "user"]
    assert [told(each) for each in events(store, run, MessageAdded)] == ["user: What is it?", None]
    report = tt.verify(recording, lm, processors=lambda turn: forced)
    assert report.verdict == tt.Verdict.VERIFIED


@pytest.mark.parametrize("role", ["tool", "user"])
def test_a_run_that_is_resumed_keeps_the_role_of_its_results(
    lm: tt.LoadedModel, store: DatabaseStore, role: str
) -> None:
    """Also where a template would take both."""
    with begun(lm, store, behaviour={"tool_result_role": role}) as run:
        run.chat("Hello?", max_new_tokens=2)
    with tt.Investigation.resume(store, run.run_id, lm, tools=TOOLS) as resumed:
        resumed.chat(
            "Look.",
            max_new_tokens=200,
            logits_processor=says(lm, "", call("hermes", name="a"), "So."),
        )
    with tt.Investigation.fork(store, run.run_id, lm, at_turn=2, tools=TOOLS) as fork:
        pass

    roles = [each.role for each in events(store, run, MessageAdded)]
    assert roles == ["user", "user", role]
    assert store.recording(fork.run_id).started().behaviour["tool_result_role"] == role


def test_the_template_history_is_written_anew_around_calls(
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
        part.prompt.ids for part in (*reply.parts, *more.parts)
    ]
    assert '<|im_start|>tool\n"about a"<|im_end|>' in third.prompt_text
    report = tt.verify(recording, lm, processors=lambda turn: forced)
    assert report.verdict == tt.Verdict.VERIFIED


def test_a_redactor_sees_what_is_called_and_what_comes_back(
    lm: tt.LoadedModel, store: DatabaseStore
) -> None:
    forced = says(lm, "Ann? " + call("hermes", name="Ann"), "Ann it is.")
    with begun(lm, store, redactor=lambda text: text.replace("Ann", "…")) as run:
        reply = run.chat("Who is Ann?", max_new_tokens=200, logits_processor=forced)
    recording = store.recording(run.run_id)
    called, returned = events(store, run, ToolCalled, ToolReturned)

    assert reply.tool_results[0].content == '"about Ann"'
    assert called.arguments == {"name": "…"}
    assert called.text == call("hermes", name="Ann").replace("Ann", "…")
    assert returned.content == '"about …"'
    assert recording.read_blob(returned.payload_sha256).decode() == '"about …"'
    assert "Ann" not in "".join(map(repr, events(store, run)))
    assert [each.text for each in events(store, run, TurnFinished)][-1] == "… it is."
    assert tt.check(store, run.run_id).holds


@pytest.fixture
def interrupting() -> Callable[..., tt.ToolInterface]:
    """A tool that is interrupted by Ctrl-C when it is called first."""
    times: list[int] = []

    def look_up(name: str) -> str:
        """
        Look something up.

        Args:
            name: What to look for.
        """
        times.append(1)
        if len(times) == 1:
            main = threading.main_thread().ident
            assert main is not None
            signal.pthread_kill(main, signal.SIGINT)
            time.sleep(0.3)
        return f"about {name}"

    return lambda: tt.ToolInterface([look_up])


def test_ctrl_c_while_a_tool_runs_ends_the_run_and_the_call_is_made_again(
    lm: tt.LoadedModel, store: DatabaseStore, interrupting: Callable[..., tt.ToolInterface]
) -> None:
    forced = says(lm, call("hermes", name="a"), "So.")

    with pytest.raises(KeyboardInterrupt), begun(lm, store, tools=interrupting()) as run:
        run.chat("Look.", max_new_tokens=200, logits_processor=forced)
    ended = events(store, run)[-1]
    assert isinstance(ended, RunFinished)
    assert ended.reason == status(store, run) == "interrupted"
    assert len(events(store, run, ToolCalled)) == 1
    assert events(store, run, ToolReturned) == []

    with tt.Investigation.resume(store, run.run_id, lm, tools=interrupting()) as resumed:
        # What the caller passes is not recorded: behind the call the model says what it wants.
        reply = resumed.resumed_reply
    assert reply is not None
    assert [each.content for each in reply.tool_results] == ['"about a"']
    assert len(reply.parts) == 2
    assert [each.call_id for each in events(store, run, ToolCalled)] == ["call_1", "call_1"]
    assert len(events(store, run, ToolReturned)) == 1
    assert status(store, run) == "finished"
    assert tt.check(store, run.run_id).holds
    assert len(tt.rebuild(store.recording(run.run_id)).turns) == 2


def test_what_a_tool_asks_for_acts_in_the_rest_of_the_turn_and_belongs_to_it(
    lm: tt.LoadedModel, store: DatabaseStore
) -> None:
    runs: list[tt.Investigation] = []
    tools = muting(runs)
    runs.append(begun(lm, store, tools=tools))
    with runs[-1] as run:
        run.chat(
            "Do.", max_new_tokens=120, logits_processor=says(lm, call("hermes", "mute"), "So.")
        )
        run.chat("And now?", max_new_tokens=4, do_sample=False)
    (asked,) = events(store, run, InterventionRequested)
    first, rest, second = store.recording(run.run_id).turns()

    assert (asked.turn, first.number, rest.number, second.number) == (1, 1, 1, 2)
    assert first.interventions == ()
    assert [each.start for each in rest.interventions] == [
        len(first.prompt_ids) + len(first.tokens)
    ]
    with tt.Investigation.fork(store, run.run_id, lm, at_turn=2, tools=tools) as fork:
        fork.chat("And now?", max_new_tokens=4, do_sample=False)
    assert store.recording(fork.run_id).turns()[-1].reply_ids == second.reply_ids
    forced = says(lm, call("hermes", "mute"), "So.")
    verified = tt.verify(store.recording(fork.run_id), lm, processors=lambda turn: forced)
    assert verified.verdict is tt.Verdict.VERIFIED


def test_a_tool_cannot_clear_the_cache_and_hears_so(
    lm: tt.LoadedModel, store: DatabaseStore
) -> None:
    runs: list[tt.Investigation] = []
    runs.append(begun(lm, store, tools=muting(runs, clear_cache=True)))
    look = tt.ToolCall(name="mute", arguments={})
    with runs[-1] as run:
        reply = run.chat("Do.", tool_calls=[look], max_new_tokens=4, do_sample=False)

    assert "a tool cannot clear the cache" in reply.tool_results[0].content
    assert events(store, run, InterventionRequested) == []
    assert status(store, run) == "finished"
