"""Calls are read when they are complete and not before, or say what is wrong with them."""

import copy
import json
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import LogitsProcessorList, PreTrainedTokenizerFast

import tokentape as tt
from tests.forced import forced_reply
from tokentape.generation import CallReader, ParsedCall
from tokentape.store import DatabaseStore

QWEN_TEMPLATE = {
    "defaults": {"role": "assistant"},
    "start_anchor": "<|im_start|>assistant\n",
    "fields": {
        "thinking": {"open": "<think>", "close": "</think>", "content": "text"},
        "tool_calls": {
            "open": "<tool_call>",
            "close": "</tool_call>",
            "repeats": True,
            "content": "json",
            "transform": {"type": "function", "function": "{content}"},
        },
        "content": {"close": "<|im_end|>", "content": "text"},
    },
}
GPT_OSS_TEMPLATE = {
    "defaults": {"role": "assistant"},
    "start_anchor": "<|im_start|>assistant\n",
    "fields": {
        "thinking": {"open": "<|channel|>analysis<|message|>", "close": "<|end|>"},
        "tool_calls": {
            "open_pattern": r"<\|channel\|>to=functions\.(?P<name>\w+)<\|message\|>",
            "close_pattern": r"<\|call\|>",
            "content": "json",
            "repeats": True,
            "transform": {"function": {"name": "{name}", "arguments": "{content}"}},
        },
    },
}


def look_up(name: str, top: int = 3) -> str:
    """
    Look something up.

    Args:
        name: What to look for.
        top: How many to give.
    """
    return name * top


def mix(values: list[Any], options: dict[str, Any] | None = None) -> int:
    """
    Mix some values.

    Args:
        values: What to mix.
        options: How to mix.
    """
    return len(values)


TOOLS = tt.ToolInterface([look_up, mix])
FORMATS = ("hermes", "llama3", "mistral", "python")


@pytest.fixture(scope="module")
def readers(tokenizer: PreTrainedTokenizerFast) -> Mapping[str, Callable[[], CallReader]]:
    """A reader of each format, and of a response template."""
    own = copy.deepcopy(tokenizer)
    own.response_template = QWEN_TEMPLATE
    other = copy.deepcopy(tokenizer)
    other.response_template = GPT_OSS_TEMPLATE

    def made(of: PreTrainedTokenizerFast, name: str) -> Callable[[], CallReader]:
        return lambda: CallReader(of, TOOLS, name)

    return {
        **{name: made(tokenizer, name) for name in FORMATS},
        "response_template": made(own, "auto"),
        "gpt-oss": made(other, "auto"),
    }


def dumped(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


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
@settings(max_examples=12, deadline=None)
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
@settings(max_examples=50, deadline=None)
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
@settings(max_examples=40, deadline=None)
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


BROKEN: Mapping[str, list[tuple[str, str]]] = {
    "hermes": [
        (f"<tool_call>{body}</tool_call>", complaint)
        for body, complaint in (
            ("{'name': 'mix'}", "double quotes, not in single ones"),
            ('{"name": "mix", }', "no comma before a closing"),
            ('{"name": "mixx"}', "did you mean 'mix'?"),
            ('{"arguments": {}}', 'it has no "name"'),
            ('{"name": "mix", "arguments": 3}', "must be a JSON object"),
            ('{"name": "mix", "arguments": {"a": True}}', "true, false"),
            ('{"name": "mix", "arguments": {"a": NaN}}', "no NaN"),
            ('{"name": "mix", "arguments": {"a": 1e999}}', "too large"),
            ('{"name": "mix", "arguments": {"a": "\\ud83d"}}', "half of a surrogate pair"),
            ('{"name": "mix", "arguments": {"a": "\\d"}}', "a backslash inside a string"),
            ('{"name": "mix", "name": "mix"}', "'name' is given twice"),
            ("", "ends too early"),
            ("mix(values=[])", "value was expected"),
            ("[" * 9999, "nested too deeply"),
            (f'{{"name": "mix", "arguments": {{"a": {"[" * 99 + "]" * 99}}}}}', "64 levels"),
            ("<function=mix>\n<parameter=a>1</function>", "each argument"),
        )
    ]
    + [('<tool_call>{"name": "mix", "arguments": {"a": "b}}</tool_call>\n', "not closed")],
    "llama3": [
        ("{'name': 'mix', 'parameters': {}}", "double quotes, not in single ones"),
        ('{"name": "mix", "parameters": {"a": 1,}}', "no comma before a closing"),
        ('{"name": "mix", "parameters": {"a": [1}}', "was expected"),
        ('{"name": "mixer", "parameters": {}}', "did you mean 'mix'?"),
        ('{"name": "mix", "parameters": [1]}', "must be a JSON object"),
    ],
    "mistral": [
        ('[TOOL_CALLS] [{"name": "mix", "arguments": {"a": 1,}}]', "no comma before"),
        ('[TOOL_CALLS] [{"name": "mx", "arguments": {}}]', "did you mean 'mix'?"),
        ("[TOOL_CALLS] []", "the array of calls after [TOOL_CALLS] is empty"),
        ("[TOOL_CALLS]mix[ARGS]{'a': 1}", "double quotes, not in single ones"),
    ],
    "python": [
        ("[mix(values=[open('x')])]", "open('x') is not a literal"),
        ("[mix(values=1e999)]", "too large"),
        ("[mix(values=[1)]", "it is not Python"),
        ("[mixx(values=[])]", "did you mean 'mix'?"),
        ("mix([], None, 3)\n", "3 values for 2 arguments"),
        ("mix(values=[], values=[])\n", "'values' is given twice"),
        ("mix(**{'values': []})\n", "without **"),
        ("```python\nfound = mix(values=[])\n```", "only calls are run"),
        ("mix(values='a)\n", "it is not Python"),
    ],
    "response_template": [
        ("<tool_call>{'name': 'mix'}</tool_call>", "cannot be read: json parser"),
        ('<tool_call>{"name": "mixx"}</tool_call>', "did you mean 'mix'?"),
    ],
    "gpt-oss": [("<|channel|>to=functions.mix<|message|>{a}<|call|>\n", "cannot be read")],
}


@pytest.mark.parametrize(
    ("call_format", "text", "complaint"),
    [(name, *each) for name, texts in BROKEN.items() for each in texts],
)
def test_a_broken_call_says_how_to_write_it(
    readers: Mapping[str, Callable[[], CallReader]], call_format: str, text: str, complaint: str
) -> None:
    (read,) = readers[call_format]().completed(text)

    assert complaint in read.error
    assert "\n" not in read.error
    assert len(read.error) < 500
    assert read.arguments == {}
    assert read.text.strip() in text


@pytest.mark.parametrize(
    ("call_format", "text"),
    [
        ("hermes", '<tool_call>{"name": "mix", "arguments": {"a": 1}'),
        ("hermes", "<tool_call><function=mix>\n<parameter=a>1"),
        ("hermes", "<tool_call>"),
        ("llama3", '{"name": "mix", "parameters": {"a": 1}'),
        ("llama3", "<|python_tag|>mix.call(a=1)"),
        ("mistral", '[TOOL_CALLS] [{"name": "mix", "arguments": {}}'),
        ("mistral", "[TOOL_CALLS]mix"),
        ("python", "[mix(values=[1]"),
        ("python", "mix(values=[1]"),
        ("python", "```python\nmix(values=[1]"),
        ("response_template", '<tool_call>{"name": "mix"'),
        ("gpt-oss", "<|channel|>to=functions.mix<|message|>{"),
    ],
)
def test_a_call_that_the_reply_breaks_off_is_broken(
    readers: Mapping[str, Callable[[], CallReader]], call_format: str, text: str
) -> None:
    reader = readers[call_format]()

    assert reader.completed(text) == ()
    (read,) = reader.unfinished(text + "<|im_end|>")
    assert read.error


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
def test_what_only_the_end_of_the_reply_completes_is_read_then(
    readers: Mapping[str, Callable[[], CallReader]], call_format: str, text: str
) -> None:
    reader = readers[call_format]()

    assert reader.completed(text) == ()
    (read,) = reader.unfinished(text + "<|im_end|>")
    assert (read.name, read.arguments, read.error) == ("mix", {"values": []}, "")


@pytest.mark.parametrize(
    ("call_format", "text"),
    [
        ("hermes", '{"name": "mix", "arguments": {}}'),
        ("hermes", '<think><tool_call>{"name": "mix", "arguments": {}}</tool_call></think>'),
        ("hermes", '<think><tool_call>{"name": "mix", "arguments": {}}</tool_call>'),
        ("llama3", '{"name": "Bob", "age": 3}'),
        ("llama3", dumped(TOOLS.get_available_tools()[0])),
        ("mistral", '[{"name": "mix", "arguments": {}}]'),
        ("python", "I would call mix(values=[]) here.\n"),
        ("python", "mix(values=[]) gives the number\n"),
        ("python", "```bash\nmix(values=[])\n```"),
        ("python", "```python\nprint(3)\n```"),
        ("python", "[see(this)](https://example.org)\n"),
        ("python", "[1, 2]\n"),
        ("response_template", '<think><tool_call>{"name": "mix"}</tool_call></think>'),
    ],
)
def test_what_is_no_call_is_left_alone(
    readers: Mapping[str, Callable[[], CallReader]], call_format: str, text: str
) -> None:
    reader = readers[call_format]()

    assert not any(reader.completed(text[:end]) for end in range(len(text) + 1))
    assert reader.unfinished(text) == ()


@pytest.mark.parametrize("call_format", ["hermes", "response_template"])
def test_a_prompt_that_begins_the_thoughts_is_looked_at(
    readers: Mapping[str, Callable[[], CallReader]], call_format: str
) -> None:
    call = '<tool_call>{"name": "mix", "arguments": {"values": []}}</tool_call>'
    reader, prefix = readers[call_format](), "<|im_start|>assistant\n<think>\n"

    assert reader.completed(call, prefix=prefix) == ()
    (read,) = reader.completed(f"{call}</think>{call}", prefix=prefix)
    assert (read.name, read.error) == ("mix", "")
    (read,) = reader.completed(call, prefix="<think></think>\n<|im_start|>assistant\n")
    assert (read.name, read.error) == ("mix", "")


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


def test_a_list_of_calls_is_complete_as_a_whole(
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


def test_a_token_may_hold_more_than_the_end_of_a_call(
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


def test_the_format_is_that_of_the_tokenizer(tokenizer: PreTrainedTokenizerFast) -> None:
    def chosen(**attributes: Any) -> str:
        other = copy.deepcopy(tokenizer)
        for name, value in attributes.items():
            setattr(other, name, value)
        return CallReader(other, TOOLS).format

    assert chosen() == "hermes"
    assert chosen(chat_template="{{ '[TOOL_CALLS]' }}") == "mistral"
    assert chosen(chat_template={"default": "", "tool_use": "<|python_tag|>"}) == "llama3"
    assert chosen(chat_template="<tool_call><|python_tag|>") == "hermes"
    assert chosen(chat_template=None) == "hermes"
    assert chosen(response_template=QWEN_TEMPLATE) == "response_template"
    assert chosen(response_template={"fields": {"content": {}}}) == "hermes"
    tagged = copy.deepcopy(tokenizer)
    tagged.add_tokens(["<|python_tag|>"])
    assert CallReader(tagged, TOOLS).format == "llama3"


def test_a_format_that_is_none_is_refused(tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(tt.ToolError, match="unknown call format 'xml': choose auto, hermes"):
        CallReader(tokenizer, TOOLS, "xml")
    with pytest.raises(tt.ToolError, match="no response_template that reads calls"):
        CallReader(tokenizer, TOOLS, "response_template")
    own = copy.deepcopy(tokenizer)
    own.response_template = {"fields": {"tool_calls": {"open": "["}}}
    with pytest.raises(tt.ToolError, match=r"response_template cannot be used: .*start_anchor"):
        CallReader(own, TOOLS)


@pytest.mark.parametrize("call_format", FORMATS)
def test_the_instructions_hold_a_call_that_can_be_read(
    readers: Mapping[str, Callable[[], CallReader]],
    tokenizer: PreTrainedTokenizerFast,
    call_format: str,
) -> None:
    reader = readers[call_format]()
    shown = reader.instructions().split("For example:\n")[1].rsplit("\n", 1)[0]
    (read,) = reader.completed(shown)

    assert (read.name, read.error) == ("look_up", "")
    assert TOOLS.call(read.name, read.arguments).error is None
    assert CallReader(tokenizer, tt.ToolInterface([]), call_format).instructions() == ""


def test_a_response_template_shows_a_call_as_the_chat_template_writes_it(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    own = copy.deepcopy(tokenizer)
    own.response_template = QWEN_TEMPLATE
    assert "example" not in CallReader(own, TOOLS).instructions()
    own.chat_template = str(tokenizer.chat_template).replace(
        "{{ message['content'] }}",
        "{{ message['content'] }}{% for call in message.tool_calls or [] %}"
        "<tool_call>{{ call.function | tojson }}</tool_call>{% endfor %}",
    )

    assert '<tool_call>{"name": "look_up"' in CallReader(own, TOOLS).instructions()


def test_a_forced_model_says_a_call_that_is_read_and_verified(
    lm: tt.LoadedModel, store: DatabaseStore
) -> None:
    call = '<tool_call>{"name": "look_up", "arguments": {"name": "é"}}</tool_call>'
    forced = LogitsProcessorList([forced_reply(lm.tokenizer, [call, "Done."])])
    with tt.Investigation(lm, store=store, name="t", system_prompt="Be brief.") as run:
        asked = "Look <|im_start|>assistant\n up."
        said = run.chat(asked, max_new_tokens=99, logits_processor=forced, do_sample=True)
        more = run.chat("And?", max_new_tokens=99, logits_processor=forced)
        free = run.chat("And?", max_new_tokens=3, logits_processor=forced)
    report = tt.verify(store.recording(run.run_id), lm, processors=lambda turn: forced)

    assert (said.stop_reason, more.stop_reason) == ("eos", "eos")
    assert more.text.removesuffix("<|im_end|>") == "Done."
    assert len(free.token_ids) == 3
    assert CallReader(lm.tokenizer, TOOLS).unfinished(said.text) == (
        ParsedCall(name="look_up", arguments={"name": "é"}, text=call),
    )
    assert report.verdict == tt.Verdict.VERIFIED
