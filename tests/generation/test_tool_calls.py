"""Malformed and incomplete calls, text that is not a call, and the instructions to call tools."""

import copy
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from transformers import LogitsProcessorList, PreTrainedTokenizerFast

import tokentape as tt
from tests.forced import forced_reply
from tests.generation.call_formats import (
    FORMATS,
    QWEN_TEMPLATE,
    TOOLS,
    dumped,
    needs_response_templates,
)
from tokentape.generation import CallReader, ParsedCall
from tokentape.store import DatabaseStore

BROKEN: Mapping[str, list[tuple[str, str]]] = {
    "hermes": [
        (f"<tool_call>{body}</tool_call>", complaint)
        for body, complaint in (
            ("{'name': 'mix'}", "double quotes, not in single ones"),
            ('{"name": "mix\\ud83d"}', "mix\\ud83d"),
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
def test_a_malformed_call_says_how_to_write_it(
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
def test_a_call_that_the_end_of_the_reply_cuts_off_is_malformed(
    readers: Mapping[str, Callable[[], CallReader]], call_format: str, text: str
) -> None:
    reader = readers[call_format]()

    assert reader.completed(text) == ()
    (read,) = reader.unfinished(text + "<|im_end|>")
    assert read.error


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
def test_text_that_is_not_a_call_is_ignored(
    readers: Mapping[str, Callable[[], CallReader]], call_format: str, text: str
) -> None:
    reader = readers[call_format]()

    assert not any(reader.completed(text[:end]) for end in range(len(text) + 1))
    assert reader.unfinished(text) == ()


@pytest.mark.parametrize("call_format", ["hermes", "response_template"])
def test_a_prompt_that_opens_a_thinking_block_is_respected(
    readers: Mapping[str, Callable[[], CallReader]], call_format: str
) -> None:
    call = '<tool_call>{"name": "mix", "arguments": {"values": []}}</tool_call>'
    reader, prefix = readers[call_format](), "<|im_start|>assistant\n<think>\n"

    assert reader.completed(call, prefix=prefix) == ()
    (read,) = reader.completed(f"{call}</think>{call}", prefix=prefix)
    assert (read.name, read.error) == ("mix", "")
    (read,) = reader.completed(call, prefix="<think></think>\n<|im_start|>assistant\n")
    assert (read.name, read.error) == ("mix", "")


@needs_response_templates
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


@needs_response_templates
def test_an_unknown_format_is_rejected(tokenizer: PreTrainedTokenizerFast) -> None:
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


@needs_response_templates
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
