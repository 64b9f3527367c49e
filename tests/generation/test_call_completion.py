"""A call is read when it is complete, and not before."""

import json
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.generation.call_formats import FORMATS, TOOLS, dumped
from tokentape.generation import CallReader


def tags(name: str, arguments: Mapping[str, Any]) -> str:
    written = "".join(
        f"<parameter={key}>\n{value if isinstance(value, str) else dumped(value)}\n</parameter>\n"
        for key, value in arguments.items()
    )
    return f"<tool_call>\n<function={name}>\n{written}</function>\n</tool_call>"


def python(name: str, arguments: Mapping[str, Any]) -> str:
    return f"{name}({', '.join(f'{key}={value!r}' for key, value in arguments.items())})"


WRITTEN: Mapping[str, tuple[str, Callable[[str, Mapping[str, Any]], str]]] = {
    "hermes": (
        "hermes",
        lambda name, arguments: (
            f"<tool_call>\n{dumped({'name': name, 'arguments': arguments})}\n</tool_call>"
        ),
    ),
    "hermes in a fence": (
        "hermes",
        lambda name, arguments: (
            f"<tool_call>```json\n{dumped({'arguments': arguments, 'name': name})}\n```</tool_call>"
        ),
    ),
    "llama3": (
        "llama3",
        lambda name, arguments: json.dumps({"name": name, "parameters": arguments}),
    ),
    "llama3 with a tag": (
        "llama3",
        lambda name, arguments: (
            "<|python_tag|>"
            + dumped({"type": "function", "function": {"name": name, "parameters": arguments}})
        ),
    ),
    "mistral, a list": (
        "mistral",
        lambda name, arguments: (
            f"[TOOL_CALLS] {dumped([{'name': name, 'arguments': arguments, 'id': '123456789'}])}"
        ),
    ),
    "mistral, a name": (
        "mistral",
        lambda name, arguments: f"[TOOL_CALLS]{name}[ARGS]{dumped(arguments)}",
    ),
    "python, a list": ("python", lambda name, arguments: f"[{python(name, arguments)}]"),
    "python, a line": ("python", lambda name, arguments: f"{python(name, arguments)}\n"),
    "python, a block": (
        "python",
        lambda name, arguments: f"```tool_call\n{python(name, arguments)}\n```",
    ),
    "response template": (
        "response_template",
        lambda name, arguments: (
            # What stands between the tags is all that such a template knows of JSON.
            "<tool_call>"
            + dumped({"name": name, "arguments": arguments}).replace("<", "\\u003c")
            + "</tool_call>"
        ),
    ),
    "response template with patterns": (
        "gpt-oss",
        lambda name, arguments: (
            f"<|channel|>to=functions.{name}<|message|>"
            + dumped(arguments).replace("<", "\\u003c")
            + "<|call|>"
        ),
    ),
}


TEXT = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=12),
    st.sampled_from(
        ["</tool_call>", "{", '}"', "a\\", "'''", "f(x)]", "[TOOL_CALLS]", "<think>", "é🜁", "\n```"]
    ),
)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)


CALLS = st.one_of(
    st.tuples(st.just("look_up"), st.fixed_dictionaries({"name": TEXT, "top": st.integers()})),
    st.tuples(
        st.just("mix"),
        st.fixed_dictionaries({"values": st.lists(JSON, max_size=3), "options": JSON}),
    ),
)


@pytest.mark.parametrize("style", WRITTEN)
@given(call=CALLS, before=st.sampled_from(["", "Let me see.\n", "<think>mix() {</think>\n"]))
@settings(max_examples=12)
def test_a_call_is_complete_at_its_last_character_and_not_before(
    readers: Mapping[str, Callable[[], CallReader]],
    style: str,
    call: tuple[str, dict[str, Any]],
    before: str,
) -> None:
    call_format, write = WRITTEN[style]
    name, arguments = call
    text = before + write(name, arguments)
    growing = readers[call_format]()

    for end in range(len(before), len(text)):
        assert growing.completed(text[:end]) == ()
    # A pattern could have gone on: only the next character shows that it has not.
    more = "\n" if call_format == "gpt-oss" else ""
    for reader in (growing, readers[call_format]()):
        (read,) = reader.completed(text + more)
        assert (read.name, read.arguments, read.error) == (name, arguments, "")
        assert read.text in text
    assert readers[call_format]().unfinished(text) == (read,)


@given(name=TEXT, values=st.lists(st.integers() | st.booleans(), max_size=3))
@settings(max_examples=50)
def test_values_between_tags_are_read_by_the_schema(
    readers: Mapping[str, Callable[[], CallReader]], name: str, values: list[Any]
) -> None:
    tagged = readers["hermes"]()
    (read,) = tagged.completed(tags("mix", {"values": values, "options": {"a": name}}))

    assert (read.arguments, read.error) == ({"values": values, "options": {"a": name}}, "")
    (read,) = tagged.completed(tags("look_up", {"name": "7", "top": 7}))
    assert read.arguments == {"name": "7", "top": 7}


WORDS = (
    *("<tool_call>", "</tool_call>", '{"name": "mix", "parameters": ', "{'name': ", "{}}"),
    *("<function=mix>", "<parameter=values>", "</function>", "<|python_tag|>", "<think>"),
    *("[TOOL_CALLS]", "mix[ARGS]", "look_up(", "name='", '"', ")", "]", "[mix(", "\\", "\n"),
    *("```python\n", "```", "</think>", "<|channel|>to=functions.mix<|message|>", "<|call|>"),
    *("\ud83d", "\x00"),
)


@pytest.mark.parametrize("call_format", [*FORMATS, "response_template", "gpt-oss"])
@given(pieces=st.lists(TEXT | st.sampled_from(WORDS), max_size=12))
@settings(max_examples=40)
def test_nothing_that_a_model_says_raises(
    readers: Mapping[str, Callable[[], CallReader]], call_format: str, pieces: list[str]
) -> None:
    reader = readers[call_format]()
    text = ""
    for piece in pieces:
        text += piece
        for read in reader.completed(text):
            assert read.error or (read.name in TOOLS.names and json.dumps(read.arguments))
    for read in reader.unfinished(text):
        assert read.error or (read.name in TOOLS.names and json.dumps(read.arguments))


@pytest.mark.parametrize(
    ("call_format", "text"),
    [
        ("hermes", '<tool_call>{"name": "mix", "arguments": {"values": []}}'),
        ("llama3", '<|python_tag|>{"name": "mix", "parameters": {"values": []}}.'),
        ("mistral", '[TOOL_CALLS]mix[ARGS]{"values": []}.'),
        ("python", "mix(values=[])"),
        ("python", "```python\nmix(values=[])"),
        ("response_template", '<tool_call>{"name": "mix", "arguments": {"values": []}}'),
    ],
)
def test_a_call_that_only_the_end_of_the_reply_completes_is_read_then(
    readers: Mapping[str, Callable[[], CallReader]], call_format: str, text: str
) -> None:
    reader = readers[call_format]()

    assert reader.completed(text) == ()
    (read,) = reader.unfinished(text + "<|im_end|>")
    assert (read.name, read.arguments, read.error) == ("mix", {"values": []}, "")


@pytest.mark.parametrize("style", WRITTEN)
def test_several_calls_in_a_row_are_read_in_order(
    readers: Mapping[str, Callable[[], CallReader]], style: str
) -> None:
    call_format, write = WRITTEN[style]
    calls = [("look_up", {"name": "a"}), ("mix", {"values": [1, "}"]}), ("mix", {"values": []})]
    reader = readers[call_format]()
    between = "; " if style == "llama3" else "\n"
    text = between.join(write(*call) for call in calls)
    counts = {len(reader.completed(text[:end])) for end in range(len(text) + 1)}
    read = reader.unfinished(text)

    assert [(each.name, each.arguments) for each in read] == calls
    assert {0, 1, 2} <= counts


def test_a_list_of_calls_is_complete_at_its_last_bracket(
    readers: Mapping[str, Callable[[], CallReader]],
) -> None:
    lists = {
        "mistral": '[TOOL_CALLS] [{"name": "mix", "arguments": {"values": []}}, '
        '{"name": "look_up", "arguments": {"name": "a"}}]',
        "python": '[mix(values=[]), look_up(name="a")]',
    }
    for call_format, text in lists.items():
        reader = readers[call_format]()
        assert not any(reader.completed(text[:end]) for end in range(len(text)))
        first, second = reader.completed(text)
        assert (first.name, second.name, second.arguments) == ("mix", "look_up", {"name": "a"})
        assert first.text in text
        assert first.text != second.text


def test_the_token_that_completes_a_call_may_add_characters(
    readers: Mapping[str, Callable[[], CallReader]],
) -> None:
    call = '{"name": "mix", "parameters": {"values": []}}'
    reader = readers["llama3"]()

    for more in ("\n", ";", "}\n", " \n\n"):
        assert len(reader.completed(call + more)) == 1
    assert reader.completed(call + " and so on }") == ()
    assert len(reader.unfinished(call + " and so on }")) == 1


@pytest.mark.parametrize("call_format", [*FORMATS, "response_template"])
def test_a_long_reply_is_read_once(
    readers: Mapping[str, Callable[[], CallReader]], call_format: str
) -> None:
    reader = readers[call_format]()
    line = 'So {"a": [1, f(2)]} is what the layer says.)\n'
    text = ""
    for _ in range(100_000 // len(line)):
        for at in range(0, len(line), 5):
            assert reader.completed(text + line[: at + 5]) == ()
        text += line
    assert reader.unfinished(text) == ()
