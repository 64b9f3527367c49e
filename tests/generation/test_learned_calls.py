"""Spellings of calls that are learned from made-up chat templates."""

import json
import re
from collections.abc import Mapping
from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

import tokentape as tt
from benchmarks.tiny_models import byte_tokenizer
from tests.generation.call_templates import (
    NOT_UNDERSTOOD,
    TEMPLATES,
    WRITES_NO_CALLS,
    with_template,
    written_reply,
)
from tokentape.generation import CallReader, ToolInterface

PLAIN_TEXT = (
    "tagged arguments",
    "keys and values",
    "attributes in a section",
    "typed attributes",
    "bare names",
)
"""Templates that write strings without escapes."""
JSON_IN_TAGS = (
    "object in tags",
    "nested object in tags",
    "array in tags",
    "array of one-key objects",
    "name, id and object",
    "section of names and objects",
    "ids that are names",
    "channel",
    "text arguments",
)
ONE = ("look", {"word": "é", "top": 3})
TWO = ("mix", {"parts": [1, None, {"a": "b"}]})
KINDS = {bool: "boolean", int: "integer", float: "number", str: "string", list: "array"}


@cache
def tokenizer_of(name: str) -> PreTrainedTokenizerFast:
    return with_template(byte_tokenizer(), TEMPLATES[name])


@cache
def spelling_of(name: str) -> Any:
    """Return the spelling that is learned from a template."""
    reader = CallReader(tokenizer_of(name), ToolInterface.from_names(["look"]))
    assert (reader.format, reader.warning) == ("learned", "")
    return reader.described


def tools_for(*calls: tuple[str, Mapping[str, Any]]) -> ToolInterface:
    """Return tools with the names and the types of arguments of these calls."""

    def schema(name: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
        types = {
            key: {"type": "null" if value is None else KINDS.get(type(value), "object")}
            for key, value in arguments.items()
        }
        return {"name": name, "parameters": {"type": "object", "properties": types}}

    return ToolInterface.from_schemas(schema(*call) for call in calls)


def reader_of(name: str, *calls: tuple[str, Mapping[str, Any]]) -> CallReader:
    return CallReader(tokenizer_of(name), tools_for(*(calls or (ONE, TWO))), spelling_of(name))


def read(name: str, text: str, *calls: tuple[str, Mapping[str, Any]]) -> list[tuple[str, Any]]:
    """Return the calls of a reply that has ended, as names, or errors, and arguments."""
    found = reader_of(name, *calls).unfinished(text)
    return [(each.error or each.name, dict(each.arguments)) for each in found]


NAMES = st.from_regex(r"[a-z][a-z0-9_]{0,8}", fullmatch=True)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12) | st.sampled_from(
    [
        "</call>",
        '{"',
        '"}',
        "a\\",
        "f(x), g=2)",
        "two\nlines\n",
        "\n",
        "42",
        "null",
        "```",
        "[CALL]",
    ]
)


def values(texts: st.SearchStrategy[str], names: st.SearchStrategy[str]) -> Any:
    numbers = st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    return st.recursive(
        st.none() | st.booleans() | numbers | texts,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
        max_leaves=6,
    )


ARGUMENTS = st.dictionaries(NAMES, values(TEXTS, TEXTS), max_size=4)
"""Any arguments."""
TAGLESS = TEXTS.filter(lambda text: "<" not in text)
PLAIN_ARGUMENTS = st.dictionaries(NAMES, values(TAGLESS, NAMES), max_size=4)
"""Any arguments whose texts contain no tags."""


@pytest.mark.parametrize("name", TEMPLATES)
@settings(max_examples=40)
@given(data=st.data())
def test_what_a_template_writes_is_read_back_equal(name: str, data: st.DataObject) -> None:
    made = PLAIN_ARGUMENTS if name in PLAIN_TEXT else ARGUMENTS
    call = ("look", data.draw(made))
    written = written_reply(
        tokenizer_of(name), call, text=data.draw(st.sampled_from(["", "Hm.\n"]))
    )

    assert read(name, written, call) == [call]


@pytest.mark.parametrize("name", [each for each in TEMPLATES if each != "channel"])
def test_two_calls_in_a_reply_are_read_with_text_around_them(name: str) -> None:
    written = written_reply(tokenizer_of(name), ONE, TWO, text="I shall look.\n")

    assert read(name, f"{written}\nThat is all.") == [ONE, TWO]


@pytest.mark.parametrize("name", TEMPLATES)
def test_calls_with_other_text_between_them_are_all_read(name: str) -> None:
    first, second = (written_reply(tokenizer_of(name), call) for call in (ONE, TWO))

    assert read(name, f"{first}\nNo: {{x}} [y] <z>\n{second}") == [ONE, TWO]


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_call_is_complete_with_its_last_character_and_not_before(name: str) -> None:
    written = written_reply(tokenizer_of(name), ONE, text="Hm.\n").rstrip()
    reader = reader_of(name)
    complete = [end for end in range(len(written) + 1) if reader.completed(written[:end])]
    (call,) = reader.completed(written)

    assert complete == [len(written)]
    assert (call.name, call.arguments) == ONE
    assert call.text in written


@pytest.mark.parametrize("name", [each for each in TEMPLATES if each != "channel"])
def test_calls_of_a_section_are_complete_with_its_end_and_others_with_their_own(name: str) -> None:
    written = written_reply(tokenizer_of(name), ONE, TWO).rstrip()
    reader = reader_of(name)
    together = bool(reader.spelling and (reader.spelling.section_close or reader.spelling.array))
    found = [reader.completed(written[: end + 1]) for end in range(len(written))]

    assert sorted(set(map(len, found)) - {0}) == ([2] if together else [1, 2])
    assert len(found[-1]) == 2


@pytest.mark.parametrize("name", JSON_IN_TAGS)
def test_an_unterminated_string_does_not_hide_the_next_call(name: str) -> None:
    """JSON has no line break in a string."""
    reader = reader_of(name)
    broken = written_reply(tokenizer_of(name), ONE).replace('é"', "é")
    after = written_reply(tokenizer_of(name), TWO)
    found = reader.unfinished(f"{broken}\n{after}")

    assert [each.error == "" for each in found] == [False, True]


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_call_that_is_cut_off_is_never_read_with_other_arguments(name: str) -> None:
    call = ("look", {"word": "some words", "top": 31337})
    written = written_reply(tokenizer_of(name), call).rstrip()
    found = [read(name, written[:end], call) for end in range(len(written))]
    errors = [calls for calls in found if calls and calls != [call]]

    assert all("the reply ended before the call did" in error for ((error, _),) in errors)
    assert len(errors) > len(written) / 3


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize(
    "quoted",
    [
        "Like this:\n```\n{}\n```\n",
        "```text\n{}\n```\nSo.",
        "<think>{}</think>",
        "[THINK]{}[/THINK]",
    ],
)
def test_a_call_that_is_only_quoted_is_not_read(name: str, quoted: str) -> None:
    written = written_reply(tokenizer_of(name), ONE)
    reader = reader_of(name)
    text = quoted.format(written)

    assert not any(reader.completed(text[:end]) for end in range(len(text) + 1))
    assert reader.unfinished(text) == ()


@pytest.mark.parametrize("name", TEMPLATES)
@settings(max_examples=40)
@given(
    text=st.text(max_size=40),
    cut=st.integers(0, 200),
    skipped=st.integers(0, 30),
)
def test_no_text_makes_the_reader_fail(name: str, text: str, cut: int, skipped: int) -> None:
    written = written_reply(tokenizer_of(name), ONE, text="Hm.\n")
    mixed = written[:cut] + text + written[cut + skipped :]
    reader = reader_of(name)
    for end in range(0, len(mixed), 7):
        reader.completed(mixed[:end])

    for each in reader.unfinished(mixed):
        assert each.error or each.name in ("look", "mix")
        assert len(each.error) < 600


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("piece", [" ", "\n", "<", '{"', "</set>\n", ', a="'])
def test_text_of_any_length_inside_a_call_is_read(name: str, piece: str) -> None:
    """It took minutes for thousands of blanks, as patterns of blanks multiplied."""
    written = written_reply(tokenizer_of(name), ONE)
    middle = len(written) // 2
    found = read(name, written[:middle] + piece * (4000 // len(piece)) + written[middle:])

    assert len(found) <= 2


BROKEN: Mapping[str, tuple[str, str]] = {
    "object in tags": ("<call>{'tool': 'look'}</call>", "double quotes, not in single ones"),
    "array in tags": ('<CALLS>[{"name": "look", "parameters": {"top": 1,}}]</CALLS>', "no comma"),
    "array of one-key objects": ('<|tools|>[{"lok": {}}]<|/tools|>', "did you mean 'look'?"),
    "name and object": ("[CALL]look[WITH]{'top': 1}\n", "double quotes, not in single ones"),
    "section of names and objects": (
        "<｜calls｜><｜call｜>function<｜sep｜>look\n{}<｜end｜><｜/calls｜>",
        "```json' was expected",
    ),
    "channel": (" to=tools.look<|channel|>side<|message|>{top: 1}<|call|>", "names are written"),
    "bare names": ("<|do>call:look{top:<'>x<'> word:2}<do|>", "a comma or } was expected"),
    "tagged arguments": ("<do>\n<use=look>\ntop is 1\n</use>\n</do>", "<set=' was expected"),
    "typed attributes": (
        '<invoke name="look"><p name="top" text="false">x</p></invoke>',
        "it is not JSON",
    ),
    "python with JSON values": ("<|start|>[look(top=open('x'))]<|end|>", "it is not JSON"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_malformed_call_says_how_the_template_writes_it(name: str) -> None:
    text, complaint = BROKEN[name]
    after = written_reply(tokenizer_of(name), TWO)
    reader = reader_of(name)
    (call,) = reader.completed(text)

    assert complaint in call.error
    assert (call.arguments, call.text.strip() in text) == ({}, True)
    if "did you mean" not in complaint:
        assert "write it as " in call.error
        assert "NAME" in call.error
    assert "\n" not in call.error
    assert len(call.error) < 500
    assert [each.error or each.name for each in reader.unfinished(f"{text}\n{after}")] == [
        call.error,
        "mix",
    ]


def test_a_channel_of_thoughts_holds_no_calls() -> None:
    """Its tags are learned too; and a model may put other words before the last tag than the
    template does."""
    template = TEMPLATES["channel"].replace(
        "{{ message.content or '' }}",
        "{% if message.thinking %}<|channel|>thoughts<|message|>{{ message.thinking }}<|end|>"
        "{% endif %}{{ message.content or '' }}",
    )
    tokenizer = with_template(byte_tokenizer(), template)
    tools = tools_for(ONE)
    reader = CallReader(tokenizer, tools)
    call = "<|channel|>side to=tools.look <|constrain|>json<|message|>{}<|call|>"
    thought = f"<|channel|>thoughts<|message|>I could {call}<|end|>"

    assert reader.unfinished(thought) == ()
    assert [each.name for each in reader.unfinished(thought + call)] == ["look"]


@pytest.mark.parametrize(
    ("call_format", "name"),
    [
        ("hermes", "<tool_call>\n{{ f | tojson }}\n</tool_call>"),
        ("mistral", "[TOOL_CALLS] [{{ f | tojson }}]"),
        ("llama3", '{"name": "{{ f.name }}", "parameters": {{ f.arguments | tojson }}}'),
    ],
)
def test_a_template_that_writes_a_known_format_is_read_in_that_format(
    call_format: str, name: str
) -> None:
    calls = (
        "{% for call in message.tool_calls %}{% set f = call.function %}" + name + "{% endfor %}"
    )
    template = WRITES_NO_CALLS.replace(
        "{% if message.tool_calls %}{% endif %}",
        "{% if message.tool_calls %}" + calls + "{% endif %}",
    )
    reader = CallReader(with_template(byte_tokenizer(), template), tools_for(ONE))

    assert (reader.format, reader.spelling, reader.warning) == (call_format, None, "")


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        (WRITES_NO_CALLS, "the chat template writes no tool calls"),
        (NOT_UNDERSTOOD, "the chat template writes tool calls in an unknown form"),
        ("{{ 1 / 0 }}", "the chat template writes no tool calls"),
        (None, "the tokenizer has no chat template"),
    ],
)
def test_a_template_from_which_nothing_is_learned_leaves_a_warning(
    template: str | None, reason: str
) -> None:
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = template
    reader = CallReader(tokenizer, tools_for(ONE))

    assert reader.format == "hermes"
    assert reader.warning.startswith(f"{reason}: calls are read in the format 'hermes'")
    assert "tool_call_format=" in reader.warning
    assert CallReader(tokenizer, tools_for(ONE), "hermes").warning == ""
    assert CallReader(tokenizer, ToolInterface([])).warning == ""
    with pytest.raises(tt.ToolError, match=f"{reason}: no spelling can be learned"):
        CallReader(tokenizer, tools_for(ONE), "learned")


def test_variables_of_the_template_are_used_when_it_is_asked_for_calls() -> None:
    template = TEMPLATES["object in tags"].replace("<call>", "<{{ tag }}>")
    tokenizer = with_template(byte_tokenizer(), template)
    reader = CallReader(tokenizer, tools_for(ONE), template_settings={"tag": "act"})

    assert reader.spelling is not None
    assert reader.spelling.open.strip() == "<act>"


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_spelling_can_be_recorded_and_given_again(name: str) -> None:
    record = spelling_of(name)
    reader = CallReader(byte_tokenizer(), tools_for(ONE), json.loads(json.dumps(record)))
    example = reader.instructions().partition("For example:\n")[2].rpartition("\n")[0]

    assert reader.described == record
    assert [(each.name, each.error) for each in reader.unfinished(example)] == [("look", "")]


@pytest.mark.parametrize(
    ("record", "complaint"),
    [
        ({}, "needs a syntax: object, named_object, pairs"),
        ({"syntax": "xml"}, "syntax must be one of object"),
        ({"syntax": "object", "opening": "<x>"}, "has no 'opening'; it has"),
        ({"syntax": "object", "open": 3}, "open of a spelling of calls cannot be 3"),
        ({"syntax": "object", "name_path": "name"}, "name_path of a spelling"),
        ({"syntax": "pairs"}, "needs an `open` or a `name_close`"),
    ],
)
def test_a_spelling_that_is_none_is_refused(record: dict[str, Any], complaint: str) -> None:
    with pytest.raises(tt.ToolError, match=re.escape(complaint)):
        CallReader(byte_tokenizer(), tools_for(ONE), record)
