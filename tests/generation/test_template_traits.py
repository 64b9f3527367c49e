"""Runs with chat templates that have difficult traits: recorded, resumed, forked, verified."""

import itertools
import json
import re
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

import pytest
import torch
from transformers import LogitsProcessor, LogitsProcessorList, PreTrainedTokenizerFast
from transformers.utils import chat_template_utils

import tokentape as tt
from benchmarks.tiny_models import byte_tokenizer, tiny_model
from tests.generation.calling_models import TOOLS, call
from tests.generation.made_templates import (
    DROPS_QUESTIONS,
    EMPTY,
    MADE,
    NO_RESULTS,
    ONE_TURN,
    UNCOMPILABLE,
    MadeTemplate,
    raised_if,
)
from tokentape.generation.history.conversation_format import ConversationFormat
from tokentape.generation.history.format_probe import choose_format
from tokentape.recorder.events import MessageAdded, ToolCalled
from tokentape.recorder.projections import Turn
from tokentape.replay.rerecord import rerecord
from tokentape.store import DatabaseStore

SYSTEM = "You are the subject."
LOOK = tt.ToolCall(name="look_up", arguments={"name": "moon"})
CALLS: dict[str, Any] = {"tool_call_format": "python", "seed": 7}
CALL = call("python", name="sun")


FIRST, CALLING, THIRD = "First question.", "Please call.", "Third question."
OTHERS = (THIRD, "Fourth question.", "Another second question.")


class Says(LogitsProcessor):
    """A processor that forces the first reply, a call, and the reply after its result.

    It reads from the ids which reply is due, so the same processor serves a replay.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, made: MadeTemplate) -> None:
        self._tokenizer = tokenizer
        self._made = made

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        forced = scores.clone()
        for row, ids in enumerate(input_ids.tolist()):
            due = self._due(self._tokenizer.decode(ids))
            if due is not None:
                forced[row] = -torch.inf
                forced[row, due] = 0.0
        return forced

    def _due(self, text: str) -> int | None:
        said_from = max(each.end() for each in re.finditer(self._made.opening, text))
        prompt, said = text[:said_from], text[said_from:]
        newest = max((FIRST, CALLING, *OTHERS), key=prompt.rfind)
        if newest == CALLING:
            reply = "Done." if "about sun" in prompt[prompt.rfind(CALLING) :] else CALL
        elif newest == FIRST and self._made.first_reply:
            reply = self._made.first_reply.replace(EMPTY, "")
        else:
            return None
        ids: list[int] = self._tokenizer.encode(reply, add_special_tokens=False)
        return (*ids, self._tokenizer.eos_token_id)[len(said.encode())]


@pytest.fixture
def on_day(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    def be(day: int) -> None:
        class Frozen(datetime):
            @classmethod
            def now(cls, tz: Any = None) -> "Frozen":
                return cls(2026, 7, day)

        monkeypatch.setattr(chat_template_utils, "datetime", Frozen)

    return be


@pytest.fixture
def lm_with() -> Callable[[str], tt.LoadedModel]:
    def make(template: str) -> tt.LoadedModel:
        tokenizer = byte_tokenizer()
        tokenizer.chat_template = template
        tokenizer.bos_token = "<|endoftext|>"
        return tiny_model("llama", tokenizer, num_hidden_layers=1)

    return make


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
    """Check that no prompt is encoded again, unless the tools move to the newest question."""
    reasons = {turn.started.history_reason for turn in turns}
    assert reasons <= ({"", "template_rewrote_history"} if trait == "tools move" else {""})
    for before, after in itertools.pairwise(turns):
        if not after.started.history_reason:
            ids = (*before.prompt_ids, *before.reply_ids)
            assert after.prompt_ids[: len(ids)] == ids


@pytest.mark.parametrize("trait", set(MADE) - {"channels", "no empty reply"})
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
