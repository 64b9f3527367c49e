"""Both kinds of history with templates that change earlier messages, as real ones do."""

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from tokentape.generation.history.conversation import Conversation
from tokentape.generation.history.messages import NewMessage
from tokentape.generation.history.prompt import Prompt

OPENED = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
PLAIN = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{{ message['content'] }}<|im_end|>\n{% endfor %}"
)
DEFAULT_SYSTEM = (
    "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nBe brief.<|im_end|>\n{% endif %}"
    + PLAIN
    + OPENED
)
# As Qwen3: thinking is kept after the last question and stripped before it.
STRIPS_THINKING = (
    "{% set ns = namespace(asked=-1) %}{% for message in messages %}"
    "{% if message['role'] == 'user' %}{% set ns.asked = loop.index0 %}{% endif %}{% endfor %}"
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['role'] == 'assistant' %}"
    "{% set parts = message['content'].split('</think>') %}"
    "{% if loop.index0 > ns.asked and (loop.last or parts | length > 1) %}"
    "<think>\n{% if parts | length > 1 %}{{ parts[0].split('<think>')[-1].strip() }}{% endif %}"
    "\n</think>\n\n{% endif %}{{ parts[-1].lstrip('\n') }}"
    "{% else %}{{ message['content'] }}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}"
    "{% endif %}"
)
# As Qwen3.5: after the last question, every reply has a thought.
EMPTY_THOUGHTS = STRIPS_THINKING.replace("(loop.last or parts | length > 1)", "true")
# As Phi-3: the text ends with an end-of-text token unless a reply is opened.
ENDS = (
    PLAIN
    + "{% if add_generation_prompt %}<|im_start|>assistant\n{% else %}<|endoftext|>{% endif %}"
)
# As GLM: a reply ends with the token that opens the next message.
OPENS_WITH_EOS = (
    "{% for message in messages %}<|im_end|>{{ message['role'] }}\n"
    "{{ message['content'].split('</think>')[-1] }}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
WANTS_QUESTION = (
    "{% if messages | selectattr('role', 'equalto', 'user') | list | length == 0 %}"
    "{{ raise_exception('no question') }}{% endif %}" + PLAIN + OPENED
)
DATED = "<|im_start|>system\nToday is {{ strftime_now('%d %B %Y') }}.<|im_end|>\n" + PLAIN + OPENED
DATE_SETTING = DATED.replace("strftime_now('%d %B %Y')", "date_string")
MOVES_TOOLS = (
    "{% set ns = namespace(asked=-1) %}{% for message in messages %}"
    "{% if message['role'] == 'user' %}{% set ns.asked = loop.index0 %}{% endif %}{% endfor %}"
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if tools and loop.index0 == ns.asked %}{{ tools | tojson }}\n{% endif %}"
    "{{ message['content'] }}<|im_end|>\n{% endfor %}" + OPENED
)
SPELLS_CALLS = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}"
    "{% for call in message['tool_calls'] or [] %}<tool_call>{{ call | tojson }}</tool_call>"
    "{% endfor %}<|im_end|>\n{% endfor %}" + OPENED
)
WANTS_CALLS = (
    "{% for message in messages %}{% if message['role'] == 'tool' "
    "and not messages[loop.index0 - 1]['tool_calls'] %}"
    "{{ raise_exception('a result without a call') }}{% endif %}{% endfor %}" + SPELLS_CALLS
)
TRIMS = PLAIN.replace("message['content']", "message['content'] | trim") + OPENED
BEGINS = "{{ bos_token }}" + PLAIN + OPENED
CLOSES_OTHERWISE = PLAIN.replace("<|im_end|>", "<|endoftext|>") + OPENED

EOS = 2
SETTINGS: dict[str, Any] = {"template_settings": {"bos_token": "<|endoftext|>"}}
TOOL_LIST: dict[str, Any] = {"tools": [{"type": "function", "function": {"name": "look"}}]}


def user(content: str) -> NewMessage:
    return NewMessage(role="user", content=content)


def tool(content: str) -> NewMessage:
    return NewMessage(role="tool", content=content)


@pytest.fixture
def converse(tokenizer: PreTrainedTokenizerFast) -> Iterator[Callable[..., Conversation]]:
    """Return a conversation with a custom template and a system prompt."""
    before = tokenizer.chat_template

    def begin(template: str | None, system: str | None = "Be kind.", **given: Any) -> Conversation:
        tokenizer.chat_template = template
        conversation = Conversation(tokenizer, **given)
        if system is not None:
            conversation.restart(system)
        return conversation

    yield begin
    tokenizer.chat_template = before


def take(conversation: Conversation, *new: NewMessage, reply: str, ended: bool = True) -> Prompt:
    """Run a turn with a reply of one token per character, unlike its encoding."""
    prompt = conversation.extend(new)
    conversation.begin_turn(prompt)
    ids = [i for character in reply for i in _encode(conversation.tokenizer, character)]
    conversation.finish_turn([*ids, EOS] if ended else ids, reply, "<|im_end|>" if ended else "")
    return prompt


def spelled(conversation: Conversation, prompt: Prompt) -> str:
    return str(conversation.tokenizer.decode(list(prompt.ids), skip_special_tokens=False))


def _encode(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer.encode(text, add_special_tokens=False))


def read_calls(text: str) -> Mapping[str, Any]:
    """Return the message for a reply; `look {"n": 1.0}` is a tool call."""
    name, _, arguments = text.partition(" ")
    if name != "look":
        return {"content": text}
    return {"content": "", "tool_calls": [{"name": name, "arguments": json.loads(arguments)}]}


CASES = {
    "default system": (DEFAULT_SYSTEM, ["One.", "Two."], {"system": None}),
    "thinking": (STRIPS_THINKING, ["<think>hm</think>One.", "<think>so</think>Two."], {}),
    "no thinking": (
        STRIPS_THINKING,
        ["One.", "Two."],
        {"template_settings": {"enable_thinking": False}},
    ),
    "thoughts between tool calls": (EMPTY_THOUGHTS, ["<think>hm</think>One.", "Two."], {}),
    "end of text": (ENDS, ["One.", "Two."], {}),
    "no system prompt alone": (WANTS_QUESTION, ["One.", "Two."], {}),
    "re-spelled calls": (
        SPELLS_CALLS,
        ['look {"n":1e-5}', "Small."],
        {"read_reply": read_calls},
    ),
    "calls that are looked for": (
        WANTS_CALLS,
        ['look {"n":1e-5}', 'look { "n" : 2 }'],
        {"read_reply": read_calls},
    ),
    "trimmed": (TRIMS, ["  One. \n", "\nTwo.\n\n"], {}),
    "beginning of sequence": (BEGINS, ["One.", "Two."], SETTINGS),
    "closed otherwise": (CLOSES_OTHERWISE, ["One.", "Two."], {}),
}


CUT = [(case, ended) for case in CASES for ended in (True, False) if ended or "looked" not in case]


@pytest.mark.parametrize(("case", "ended"), CUT)
def test_the_exact_history_keeps_the_sampled_ids_with_any_template(
    converse: Callable[..., Conversation], case: str, ended: bool
) -> None:
    template, replies, given = CASES[case]
    conversation = converse(template, **{"system": "Be kind."} | given)
    follow = tool if "calls" in case else user
    take(conversation, user("Who?"), reply=replies[0], ended=ended)
    for reply in (replies[1], replies[0]):
        before = conversation.ids, conversation.text
        prompt = take(conversation, follow("And then?"), reply=reply, ended=ended)

        assert prompt.history_reason == ""
        assert prompt.ids[: len(before[0])] == before[0]
        assert prompt.text.startswith(before[1])
        assert spelled(conversation, prompt) == prompt.text
        assert prompt.text[len(before[1]) :].count("And then?") == 1
        # With an end-of-text token after every message, they cannot be separated.
        assert [m.text.count("And then?") for m in prompt.messages] == [case != "end of text"]
        # Every message is opened and closed once; the next reply is only opened.
        closing = "<|endoftext|>" if case == "closed otherwise" else "<|im_end|>"
        assert prompt.text.count("<|im_start|>") == prompt.text.count(closing) + 1


@pytest.mark.parametrize("case", CASES)
def test_the_template_history_is_the_rendering_of_the_template(
    converse: Callable[..., Conversation], case: str
) -> None:
    template, replies, given = CASES[case]
    conversation = converse(template, history="template", **{"system": "Be kind."} | given)
    messages = [*conversation.messages]
    follow = tool if "calls" in case else user
    reasons = []
    for new, reply in zip(
        (user("Who?"), follow("Then?"), follow("So?")), replies * 2, strict=False
    ):
        before = conversation.ids
        messages.append({"role": new.role, "content": new.content})
        prompt = take(conversation, new, reply=reply)
        theirs = conversation.tokenizer.apply_chat_template(
            messages,
            add_generation_prompt=True,
            return_dict=False,
            **given.get("template_settings", {}),
        )
        messages.append({"role": "assistant", **given.get("read_reply", _content)(reply)})
        reasons.append(prompt.history_reason)

        assert list(prompt.ids) == theirs
        assert prompt.ids == (*before[: prompt.kept_tokens], *prompt.added_ids)
        assert spelled(conversation, prompt) == prompt.text
        assert (prompt.history_reason == "") == (prompt.ids[: len(before)] == before)
    assert reasons == ["", *REASONS.get(case, ["template", "template"])]


REASONS = {
    "end of text": ["", ""],
    "no system prompt alone": ["", ""],
    "default system": ["", ""],
    "beginning of sequence": ["", ""],
    "re-spelled calls": ["template", ""],
}


def _content(text: str) -> Mapping[str, Any]:
    return {"content": text}


def test_a_loop_of_tool_calls_keeps_its_thoughts_after_the_next_question(
    converse: Callable[..., Conversation],
) -> None:
    conversation = converse(EMPTY_THOUGHTS)
    for new in (user("Who?"), tool("1"), tool("2"), user("And then?")):
        before = conversation.ids
        prompt = take(conversation, new, reply="<think>hm</think>Look.")

        assert prompt.history_reason == ""
        assert prompt.ids[: len(before)] == before


def test_a_tool_list_that_moves_after_a_loop_of_tool_calls_is_rendered_again(
    converse: Callable[..., Conversation],
) -> None:
    conversation = converse(MOVES_TOOLS, **TOOL_LIST)
    take(conversation, user("Who?"), reply="Look.")
    looked = take(conversation, tool("1"), reply="Look.")
    asked = take(conversation, user("And then?"), reply="Two.")

    assert looked.history_reason == ""
    assert asked.history_reason == "template_rewrote_history"
    assert asked.text.count('"look"') == 1


def test_only_the_template_closes_a_call_that_was_cut_off(
    converse: Callable[..., Conversation],
) -> None:
    """Check a call whose end is unknown and which the template formats differently."""
    conversation = converse(WANTS_CALLS, read_reply=read_calls)
    take(conversation, user("Who?"), reply='look {"n":1e-5}', ended=False)
    prompt = conversation.extend([tool("1")])

    assert prompt.history_reason == "template_rewrote_history"
    assert prompt.text.count("<tool_call>") == 1
    assert "1e-5" not in prompt.text


@pytest.mark.parametrize("reply", ["One.", "<think>hm</think>One."])
def test_a_token_that_ends_a_reply_and_opens_the_next_message_occurs_once(
    converse: Callable[..., Conversation], reply: str
) -> None:
    conversation = converse(OPENS_WITH_EOS)
    take(conversation, user("Who?"), reply=reply)
    ended = take(conversation, user("And then?"), reply=reply, ended=False)
    cut = take(conversation, user("So?"), reply=reply)

    assert (ended.history_reason, cut.history_reason) == ("", "")
    assert ended.text.endswith(f"{reply}<|im_end|>user\nAnd then?<|im_start|>assistant\n")
    assert cut.text.endswith(f"{reply}<|im_end|>user\nSo?<|im_start|>assistant\n")
    # The first two turns share a token: they can only be removed together.
    assert {span.turn for span in conversation.segment_ranges()} == {0, 1, 2}


@pytest.mark.parametrize("template", [ENDS, WANTS_QUESTION])
def test_a_system_prompt_that_is_rendered_differently_alone_begins_every_question(
    converse: Callable[..., Conversation], template: str
) -> None:
    conversation = converse(template)
    prompt = conversation.extend([user("Who?")])

    assert conversation.text.startswith("<|im_start|>system\nBe kind.<|im_end|>")
    assert conversation.system_prompt == "Be kind."
    assert prompt.ids[: len(conversation.system_ids)] == conversation.system_ids
    assert prompt.text.startswith("<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user")
    assert prompt.history_reason == ""


def test_the_exact_history_keeps_the_date_of_its_first_turn(
    converse: Callable[..., Conversation], on_day: Callable[[int], None]
) -> None:
    on_day(30)
    conversation = converse(DATED)
    system_ids, asked = conversation.system_ids, conversation.own_prompt("Alone?")
    take(conversation, user("Who?"), reply="One.")
    before = conversation.ids
    on_day(31)
    prompt = conversation.extend([user("And then?")])

    assert "Today is 30 July 2026" in prompt.text
    assert "31" not in prompt.text
    assert prompt.ids[: len(before)] == before
    assert prompt.history_reason == ""
    # Midnight does not change an own prompt either.
    assert conversation.own_prompt("Alone?").ids == asked.ids
    assert asked.ids[: len(system_ids)] == system_ids
    assert converse(DATED, None).extend([user("Who?")]).text.count("31 July") == 1


def test_the_template_history_has_the_date_of_each_turn(
    converse: Callable[..., Conversation], on_day: Callable[[int], None]
) -> None:
    on_day(30)
    conversation = converse(DATED, history="template")
    take(conversation, user("Who?"), reply="One.")
    on_day(31)
    prompt = conversation.extend([user("And then?")])

    assert "Today is 31 July 2026" in prompt.text
    assert prompt.history_reason == "template"
    assert 0 < prompt.kept_tokens < len(conversation.system_ids)


def test_template_settings_are_passed_in_each_rendering(
    converse: Callable[..., Conversation],
) -> None:
    conversation = converse(DATE_SETTING, template_settings={"date_string": "today"})
    take(conversation, user("Who?"), reply="One.")

    assert conversation.extend([user("Then?")]).text.count("Today is today.") == 1


def test_a_tool_list_that_moves_is_rendered_again_with_a_reason(
    converse: Callable[..., Conversation],
) -> None:
    conversation = converse(MOVES_TOOLS, **TOOL_LIST)
    first = take(conversation, user("Who?"), reply="One.")
    before = conversation.ids
    prompt = take(conversation, user("And then?"), reply="Two.")

    assert first.text.count('"look"') == prompt.text.count('"look"') == 1
    assert prompt.text.index('"look"') > prompt.text.index("One.")
    assert prompt.history_reason == "template_rewrote_history"
    assert len(conversation.system_ids) < prompt.kept_tokens < len(before)
    assert prompt.ids == (*before[: prompt.kept_tokens], *prompt.added_ids)


def test_after_an_own_prompt_the_conversation_continues_by_ids(
    converse: Callable[..., Conversation],
) -> None:
    conversation = converse(STRIPS_THINKING)
    take(conversation, user("Who?"), reply="<think>hm</think>One.")
    history = conversation.ids
    conversation.begin_turn(conversation.own_prompt("Alone?"))
    conversation.finish_turn((250, 251), "\ufffd\ufffd", "")
    prompt = conversation.extend([user("And then?")])

    assert prompt.ids[: len(history)] == history
    assert "Alone?" not in prompt.text
    assert prompt.history_reason == "after_own_prompt"
    assert prompt.ids == (*conversation.ids[: prompt.kept_tokens], *prompt.added_ids)


def test_a_turn_is_finished_even_if_read_reply_raises(
    converse: Callable[..., Conversation],
) -> None:
    conversation = converse(SPELLS_CALLS, read_reply=read_calls)
    with pytest.raises(json.JSONDecodeError):
        take(conversation, user("Who?"), reply="look {")

    assert conversation.text.endswith("look {<|im_end|>")
    assert conversation.messages[-1] == {"role": "assistant", "content": "look {"}
    assert conversation.extend([user("Again?")]).history_reason == ""
