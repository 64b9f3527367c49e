"""The calls of a reply, while the model is still writing it and when it has ended."""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from transformers import PreTrainedTokenizerBase

from tokentape.generation.errors import ToolError
from tokentape.generation.tools.calls.call_format import CallFormat
from tokentape.generation.tools.calls.hermes import Hermes
from tokentape.generation.tools.calls.llama3 import Llama3
from tokentape.generation.tools.calls.mistral import Mistral
from tokentape.generation.tools.calls.parsed_call import ParsedCall
from tokentape.generation.tools.calls.python_call import PythonCall
from tokentape.generation.tools.calls.response_template import TemplateScanner, closers, reads_calls
from tokentape.generation.tools.calls.sample import sample_arguments, written_by_template
from tokentape.generation.tools.calls.scanner import Scanner, may_end_a_call
from tokentape.generation.tools.interface import ToolInterface

_FORMATS: Mapping[str, Callable[[ToolInterface], CallFormat]] = {
    "hermes": Hermes,
    "llama3": Llama3,
    "mistral": Mistral,
    "python": PythonCall,
}
_TEMPLATE = "response_template"
_MARKS = {"<tool_call>": "hermes", "[TOOL_CALLS]": "mistral", "<|python_tag|>": "llama3"}


class _Reading(Protocol):
    """A reply, read as far as it has come."""

    text: str

    def calls(self, text: str) -> tuple[ParsedCall, ...]: ...

    def all_calls(self, text: str) -> tuple[ParsedCall, ...]: ...


class CallReader:
    """Reads calls in one format, recorded as `format`.

    It remembers how far it has read: the texts of one reply, growing, cost its length once. Replies
    hold their control tokens as text, or calls that are marked by them cannot be seen.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        tools: ToolInterface,
        call_format: str = "auto",
    ) -> None:
        """`call_format` is `hermes`, `llama3`, `mistral`, `python` or `response_template`.

        `auto` takes the tokenizer's response template if it reads calls, else the format whose
        tokens are in the chat template or the vocabulary, else `hermes`. Raises ToolError for an
        unknown format, and for a response template that the tokenizer has not.
        """
        self._tokenizer = tokenizer
        self._tools = tools
        self.format = _chosen(tokenizer, call_format)
        self._form = None if self.format == _TEMPLATE else _FORMATS[self.format](tools)
        self._prefix = ""
        self._reading: _Reading | None = None
        try:
            self._begun("")
        except ValueError as error:  # transformers checks a response template when it is used
            raise ToolError(f"the tokenizer's response_template cannot be used: {error}") from None

    def completed(self, text: str, *, prefix: str = "") -> tuple[ParsedCall, ...]:
        """The calls of `text`, the reply since its last pause, if it has just completed one.

        They are broken where the calls are. `prefix` is what stands before the text, of which the
        last characters, and for a response template the last message, are looked at.
        """
        if not self._may_have_completed(text):
            return ()
        return self._continued(text, prefix).calls(text)

    def unfinished(self, text: str, *, prefix: str = "") -> tuple[ParsedCall, ...]:
        """The calls of a reply that has ended and that nobody has answered.

        One that was begun and not completed is broken, unless the end of the reply completes it.
        """
        text = self._without_last_tokens(text)
        calls = self._continued(text, prefix).all_calls(text)
        self._reading = None
        return calls

    def instructions(self) -> str:
        """How a system prompt tells the model to call tools; empty where there are none."""
        if not self._tools.names:
            return ""
        schema = min(
            self._tools.get_available_tools(),
            key=lambda each: not each["parameters"].get("required"),
        )
        name, arguments = schema["name"], sample_arguments(schema)
        if self._form is not None:
            rule, example = self._form.rule, self._form.example(name, arguments)
        else:
            rule = "write it as you have learned to"
            example = written_by_template(self._tokenizer, name, arguments)
            calls = self.completed(example) or self.unfinished(example)
            if [(each.name, each.error) for each in calls] != [(name, "")]:
                example = ""
        shown = f" For example:\n{example}\n" if example else "\n"
        return (
            f"To call a tool, {rule}.{shown}"
            "Stop after the call: the result comes next, and you go on when you have read it."
        )

    def _may_have_completed(self, text: str) -> bool:
        if self._form is not None:
            return may_end_a_call(self._form, text)
        endings = closers(self._tokenizer)
        return not endings or text[-200:].rstrip().endswith(endings)

    def _continued(self, text: str, prefix: str) -> _Reading:
        """What has been read of this reply; a new beginning where it is another one."""
        reading = self._reading
        if reading is None or prefix != self._prefix or not text.startswith(reading.text):
            self._prefix = prefix
            reading = self._reading = self._begun(prefix)
        return reading

    def _begun(self, prefix: str) -> _Reading:
        if self._form is None:
            return TemplateScanner(self._tokenizer, self._tools, prefix=prefix)
        return Scanner(self._form, prefix=prefix)

    def _without_last_tokens(self, text: str) -> str:
        """Without what the model ended the reply with."""
        tokens = [each for each in self._tokenizer.all_special_tokens if each]
        ends = tuple(each for each in tokens if each not in self._closing_tokens())
        while True:
            stripped = text.rstrip()
            end = next((each for each in ends if stripped.endswith(each)), None)
            if end is None:
                return text
            text = stripped.removesuffix(end)

    def _closing_tokens(self) -> tuple[str, ...]:
        return closers(self._tokenizer) if self._form is None else self._form.endings


def _chosen(tokenizer: PreTrainedTokenizerBase, call_format: str) -> str:
    known = (*_FORMATS, _TEMPLATE)
    if call_format == _TEMPLATE and not reads_calls(tokenizer):
        raise ToolError(
            "the tokenizer has no response_template that reads calls: choose one of "
            f"{', '.join(_FORMATS)}"
        )
    if call_format in known:
        return call_format
    if call_format != "auto":
        raise ToolError(
            f"there is no format of calls {call_format!r}: choose auto, {', '.join(known)}"
        )
    if reads_calls(tokenizer):
        return _TEMPLATE
    template: Any = tokenizer.chat_template or ""
    written = " ".join(template.values()) if isinstance(template, dict) else template
    vocabulary = tokenizer.get_vocab()
    for marks in (written, vocabulary):
        for mark, name in _MARKS.items():
            if mark in marks:
                return name
    return "hermes"
