"""Runs whose models call tools in a spelling that was learned from the chat template."""

import copy
import warnings
from unittest.mock import patch

import pytest

import tokentape as tt
from tests.generation.call_templates import (
    NOT_UNDERSTOOD,
    WRITES_NO_CALLS,
    speaking,
    with_template,
    written_reply,
)
from tests.generation.calling_models import TOOLS, begun, call, events, says
from tokentape.generation import CallReader
from tokentape.generation.errors import CallFormatWarning
from tokentape.generation.tools.calls import reader
from tokentape.recorder.events import ToolCalled, ToolReturned
from tokentape.store import DatabaseStore

CALL = ("look_up", {"name": 'é "q"\n'})
RUN_NAMES = (
    "object in tags",
    "array after a word",
    "bare object",
    "section of names and objects",
    "channel",
    "bare names",
    "tagged arguments",
    "python with JSON values",
)


@pytest.mark.parametrize("name", RUN_NAMES)
@pytest.mark.parametrize("history", ["exact", "template"])
def test_a_call_in_the_learned_spelling_is_run_and_the_model_continues(
    lm: tt.LoadedModel, store: DatabaseStore, name: str, history: str
) -> None:
    lm = speaking(lm, name)
    written = written_reply(lm.tokenizer, CALL)
    forced = says(lm, written, "It is é.")
    with begun(lm, store, "auto", history=history) as run:
        reply = run.chat("What is it?", max_new_tokens=300, logits_processor=forced)
    recording = store.recording(run.run_id)
    called, returned = events(store, run, ToolCalled, ToolReturned)

    assert [each.stop_reason for each in reply.rounds] == ["tool_call", "eos"]
    assert reply.rounds[0].text == written.rstrip()
    assert (called.name, called.arguments, returned.error) == (*CALL, None)
    assert "about é" in reply.rounds[1].prompt.text
    assert reply.text.endswith("It is é.")
    spelling = recording.started().settings["tool_call_format"]
    assert spelling == CallReader(lm.tokenizer, TOOLS).described
    assert recording.started().warnings == ()
    report = tt.verify(recording, lm, processors=lambda turn: forced)
    assert report.verdict == tt.Verdict.VERIFIED


def test_two_calls_of_a_section_are_run_before_the_model_continues(
    lm: tt.LoadedModel, store: DatabaseStore
) -> None:
    lm = speaking(lm, "section of names and objects")
    written = written_reply(lm.tokenizer, CALL, ("look_up", {"name": "b"}), text="Let me see.\n")
    forced = says(lm, written, "Both.")
    with begun(lm, store, "auto") as run:
        reply = run.chat("What are they?", max_new_tokens=400, logits_processor=forced)

    assert len(reply.rounds) == 2
    assert [each.content for each in reply.tool_results][1] == '"about b"'
    assert [each.text in written for each in events(store, run, ToolCalled)] == [True, True]


def test_calls_between_special_tokens_are_read_also_if_the_reply_ends_with_one(
    lm: tt.LoadedModel, store: DatabaseStore
) -> None:
    """A token that closes a call may be an end of sequence: then it is not in the reply's text."""
    tokenizer = copy.deepcopy(speaking(lm, "channel").tokenizer)
    tokenizer.add_special_tokens(
        {"additional_special_tokens": ["<|channel|>", "<|message|>", "<|call|>"]},
        replace_extra_special_tokens=False,
    )
    lm = tt.LoadedModel(lm.model, tokenizer, lm.name)
    written = written_reply(tokenizer, CALL)
    calls = tokenizer.convert_tokens_to_ids("<|call|>")
    for ends in ([], [calls]):
        forced = says(lm, written, "It is é.")
        with begun(lm, store, "auto") as run:
            reply = run.chat(
                "What is it?",
                max_new_tokens=200,
                logits_processor=forced,
                eos_token_id=[tokenizer.eos_token_id, *ends],
            )
        assert calls in reply.rounds[0].token_ids
        assert [each.arguments for each in events(store, run, ToolCalled)] == [CALL[1]]
        assert reply.text.endswith("It is é.")


def test_a_malformed_call_in_the_learned_spelling_is_told_to_the_model(
    lm: tt.LoadedModel, store: DatabaseStore
) -> None:
    lm = speaking(lm, "tagged arguments")
    broken = "<do>\n<use=look_up>\n<set=name\na\n</set>\n</use>\n</do>"
    forced = says(lm, broken, written_reply(lm.tokenizer, CALL), "Now.")
    with begun(lm, store, "auto") as run:
        reply = run.chat("What is it?", max_new_tokens=400, logits_processor=forced)

    assert [each.error is None for each in reply.tool_results] == [False, True]
    assert "write it as <do>\\n<use=NAME>" in str(reply.tool_results[0].error)


def test_a_run_that_is_resumed_or_forked_reads_calls_as_recorded(
    lm: tt.LoadedModel, store: DatabaseStore
) -> None:
    lm = speaking(lm, "keys and values")
    with begun(lm, store, "auto") as run:
        run.chat("Hello?", max_new_tokens=2, logits_processor=says(lm, ""))
    spelling = store.recording(run.run_id).started().settings["tool_call_format"]
    written = written_reply(lm.tokenizer, CALL)

    with patch.object(reader, "find_format", side_effect=AssertionError("it is not learned again")):
        with tt.Investigation.resume(store, run.run_id, lm, tools=TOOLS) as resumed:
            forced = says(lm, "", written, "So.")
            reply = resumed.chat("Look.", max_new_tokens=200, logits_processor=forced)
        with tt.Investigation.fork(store, run.run_id, lm, at_turn=2, tools=TOOLS) as fork:
            forked = fork.chat("Look.", max_new_tokens=200, logits_processor=forced)
        report = tt.verify(store.recording(fork.run_id), lm, processors=lambda turn: forced)

    assert isinstance(spelling, dict)
    assert store.recording(fork.run_id).started().settings["tool_call_format"] == spelling
    assert [each.error for each in (*reply.tool_results, *forked.tool_results)] == [None, None]
    assert report.verdict == tt.Verdict.VERIFIED


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        (WRITES_NO_CALLS, "the chat template writes no tool calls"),
        (NOT_UNDERSTOOD, "the chat template writes tool calls in an unknown form"),
    ],
)
def test_a_run_whose_calls_may_not_be_found_says_so_once_and_records_it(
    lm: tt.LoadedModel, store: DatabaseStore, template: str, reason: str
) -> None:
    lm = tt.LoadedModel(lm.model, with_template(lm.tokenizer, template), lm.name)
    forced = says(lm, call("hermes", name="a"), "So.")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", CallFormatWarning)
        with begun(lm, store, "auto") as run:
            before_first_turn = len(caught)
            reply = run.chat("What is it?", max_new_tokens=200, logits_processor=forced)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with tt.Investigation.resume(store, run.run_id, lm, tools=TOOLS) as resumed:
            resumed.chat("And?", max_new_tokens=2)

    assert before_first_turn == len(caught) == 1
    assert str(caught[0].message).startswith(reason)
    assert store.recording(run.run_id).started().warnings == (str(caught[0].message),)
    assert [each.content for each in reply.tool_results] == ['"about a"']


def test_no_run_warns_whose_model_calls_no_tools_or_was_told_how_to(
    lm: tt.LoadedModel, store: DatabaseStore
) -> None:
    lm = tt.LoadedModel(lm.model, with_template(lm.tokenizer, WRITES_NO_CALLS), lm.name)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for settings in (
            {"tool_calls_max": 0},
            {"tools": None},
            {"call_format": "hermes"},
            {"system_prompt": "{tools}"},
        ):
            keywords = {"system_prompt": "Be kind.", "tools": TOOLS, **settings}
            call_format = keywords.pop("call_format", "auto")
            with tt.Investigation(
                lm, store=store, name="t", tool_call_format=call_format, **keywords
            ) as run:
                pass
            assert store.recording(run.run_id).started().warnings == ()


def test_a_warning_that_is_an_error_ends_the_run_before_anything_is_recorded(
    lm: tt.LoadedModel, store: DatabaseStore
) -> None:
    lm = tt.LoadedModel(lm.model, with_template(lm.tokenizer, WRITES_NO_CALLS), lm.name)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(CallFormatWarning), begun(lm, store, "auto"):
            pass

    assert store.summaries() == []
