"""Read the tool calls of a reply, while the model writes it and when it has ended."""

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
from tokentape.generation.tools.calls.response_template import (
    TemplateScanner,
    call_endings,
    has_call_template,
)
from tokentape.generation.tools.calls.sample import render_call, sample_arguments
from tokentape.generation.tools.calls.scanner import FormatScanner, may_end_call
from tokentape.generation.tools.interface import ToolInterface

_FORMATS: Mapping[str, Callable[[ToolInterface], CallFormat]] = {
    "hermes": Hermes,
    "llama3": Llama3,
    "mistral": Mistral,
    "python": PythonCall,
}
_TEMPLATE = "response_template"
_MARKERS = {"<tool_call>": "hermes", "[TOOL_CALLS]": "mistral", "<|python_tag|>": "llama3"}


class _ReplyScanner(Protocol):
    """Scans one reply as it grows."""

    text: str
    """The text scanned so far."""

    def calls(self, text: str) -> tuple[ParsedCall, ...]:
        """Return the calls of the text so far if it ends with a complete one, else nothing."""

    def all_calls(self, text: str) -> tuple[ParsedCall, ...]:
        """Return the calls of a reply that has ended, the incomplete last one too."""


class CallReader:
    """Reads the tool calls of replies in one format.

    The reader remembers how far it has scanned: reading a reply after each token takes time linear
    in its length. Pass replies with their control tokens as text, since some formats begin with
    one. `format` is the name of the format.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        tools: ToolInterface,
        call_format: str = "auto",
    ) -> None:
        """Choose the format: `hermes`, `llama3`, `mistral`, `python`, `response_template`, `auto`.

        `auto` chooses the tokenizer's response template if that has a field for calls, else the
        format whose tokens are in the chat template or the vocabulary, else `hermes`. Raise
        ToolError for an unknown format or a missing or invalid response template.
        """
        self._tokenizer = tokenizer
        self._tools = tools
        self.format = _choose_format(tokenizer, call_format)
        self._format = None if self.format == _TEMPLATE else _FORMATS[self.format](tools)
        self._prefix = ""
        self._scanner: _ReplyScanner | None = None
        try:
            self._new_scanner("")
        except ValueError as error:  # transformers validates a response template on first use
            raise ToolError(f"the tokenizer's response_template cannot be used: {error}") from None

    def completed(self, text: str, *, prefix: str = "") -> tuple[ParsedCall, ...]:
        """Return the calls of `text` if its last characters complete one, else nothing.

        `text` is the reply since its last pause, `prefix` the text before it. The formats look at
        the last characters of the prefix, a response template at its last message, to see whether
        the reply begins in a thinking block. A malformed call has its `error` set.
        """
        if not self._may_have_completed(text):
            return ()
        return self._scanner_of(text, prefix).calls(text)

    def unfinished(self, text: str, *, prefix: str = "") -> tuple[ParsedCall, ...]:
        """Return the calls of a reply that has ended, before any of them is answered.

        An incomplete call is malformed, unless the end of the reply completes it.
        """
        text = self._without_last_tokens(text)
        calls = self._scanner_of(text, prefix).all_calls(text)
        self._scanner = None
        return calls

    def instructions(self) -> str:
        """Return instructions to call tools for a system prompt; "" if there are no tools."""
        if not self._tools.names:
            return ""
        schema = min(
            self._tools.get_available_tools(),
            key=lambda each: not each["parameters"].get("required"),
        )
        name, arguments = schema["name"], sample_arguments(schema)
        if self._format is not None:
            rule, example = self._format.rule, self._format.example(name, arguments)
        else:
            rule = "write it as you were trained to"
            example = render_call(self._tokenizer, name, arguments)
            calls = self.completed(example) or self.unfinished(example)
            if [(each.name, each.error) for each in calls] != [(name, "")]:
                example = ""
        shown = f" For example:\n{example}\n" if example else "\n"
        return (
            f"To call a tool, {rule}.{shown}"
            "Stop after the call. You get its result and can then continue."
        )

    def _may_have_completed(self, text: str) -> bool:
        if self._format is not None:
            return may_end_call(self._format, text)
        endings = call_endings(self._tokenizer)
        return not endings or text[-200:].rstrip().endswith(endings)

    def _scanner_of(self, text: str, prefix: str) -> _ReplyScanner:
        """Return the scanner of this reply, a new one if it is not the reply of the last call."""
        scanner = self._scanner
        if scanner is None or prefix != self._prefix or not text.startswith(scanner.text):
            self._prefix = prefix
            scanner = self._scanner = self._new_scanner(prefix)
        return scanner

    def _new_scanner(self, prefix: str) -> _ReplyScanner:
        if self._format is None:
            return TemplateScanner(self._tokenizer, self._tools, prefix=prefix)
        return FormatScanner(self._format, prefix=prefix)

    def _without_last_tokens(self, text: str) -> str:
        """Return the text without the special tokens at its end, except those that end calls."""
        tokens = [each for each in self._tokenizer.all_special_tokens if each]
        ends = tuple(each for each in tokens if each not in self._closing_tokens())
        while True:
            stripped = text.rstrip()
            end = next((each for each in ends if stripped.endswith(each)), None)
            if end is None:
                return text
            text = stripped.removesuffix(end)

    def _closing_tokens(self) -> tuple[str, ...]:
        return call_endings(self._tokenizer) if self._format is None else self._format.endings


def _choose_format(tokenizer: PreTrainedTokenizerBase, call_format: str) -> str:
    known = (*_FORMATS, _TEMPLATE)
    if call_format == _TEMPLATE and not has_call_template(tokenizer):
        raise ToolError(
            "the tokenizer has no response_template that reads calls: choose one of "
            f"{', '.join(_FORMATS)}"
        )
    if call_format in known:
        return call_format
    if call_format != "auto":
        raise ToolError(f"unknown call format {call_format!r}: choose auto, {', '.join(known)}")
    if has_call_template(tokenizer):
        return _TEMPLATE
    template: Any = tokenizer.chat_template or ""
    written = " ".join(template.values()) if isinstance(template, dict) else template
    vocabulary = tokenizer.get_vocab()
    for source in (written, vocabulary):
        for marker, name in _MARKERS.items():
            if marker in source:
                return name
    return "hermes"
