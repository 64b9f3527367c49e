"""Read the tool calls of a reply, while the model writes it and when it has ended."""

from collections.abc import Callable, Mapping
from dataclasses import replace
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
from tokentape.generation.tools.calls.spelled_format import SpelledFormat
from tokentape.generation.tools.calls.spelling import CallSpelling
from tokentape.generation.tools.calls.template_format import FoundFormat, find_format
from tokentape.generation.tools.interface import ToolInterface
from tokentape.recorder.near_names import nearest

_FORMATS: Mapping[str, Callable[[ToolInterface], CallFormat]] = {
    "hermes": Hermes,
    "llama3": Llama3,
    "mistral": Mistral,
    "python": PythonCall,
}
_TEMPLATE = "response_template"
_LEARNED = "learned"
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
    one.
    """

    format: str
    """The name of the format; `learned` for a spelling, also for one that was given."""
    warning: str
    """Why calls may not be found, and what to do; empty if the format is certain."""
    template_writes_calls: bool
    """False if `auto` found that the chat template writes no calls at all."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        tools: ToolInterface,
        call_format: str | Mapping[str, Any] = "auto",
        *,
        template_settings: Mapping[str, Any] | None = None,
    ) -> None:
        """Choose the format: `hermes`, `llama3`, `mistral`, `python`, `response_template`,
        `learned`, `auto`, or a spelling as `described` returns it.

        `auto` chooses the tokenizer's response template if that has a field for calls, else a
        format that reads what the chat template writes, else the spelling that is learned from what
        it writes. If none reads it, or without tools, it chooses the format whose tokens are in the
        chat template or the vocabulary, else `hermes`. `template_settings` are variables of the
        template.

        Raise ToolError for an unknown format, a missing or invalid response template or spelling,
        and for `learned` if nothing can be learned.
        """
        self._tokenizer = tokenizer
        self._tools = tools
        found = _choose_format(tokenizer, tools, call_format, template_settings or {})
        self.spelling, self.template_writes_calls = found.spelling, found.writes_calls
        self.format = _LEARNED if found.spelling is not None else found.name
        self.warning = _warning(found.reason, found.name) if found.reason else ""
        self._format = _format_of(self.format, self.spelling, tools)
        self._prefix = ""
        self._scanner: _ReplyScanner | None = None
        try:
            self._new_scanner("")
        except ValueError as error:  # transformers validates a response template on first use
            raise ToolError(f"the tokenizer's response_template cannot be used: {error}") from None

    @property
    def described(self) -> str | dict[str, Any]:
        """The format as a later reader takes it: its name, or the learned spelling."""
        return self.format if self.spelling is None else self.spelling.to_record()

    @property
    def opening(self) -> str:
        """The pattern that a call begins with; empty if the format may begin one with any text."""
        return "" if self._format is None else self._format.opening

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
        example = self.spelled(name, arguments)
        if self._format is not None:
            rule = self._format.rule
        else:
            rule = "write it as you were trained to"
            calls = self.completed(example) or self.unfinished(example)
            if [(each.name, each.error) for each in calls] != [(name, "")]:
                example = ""
        shown = f" For example:\n{example}\n" if example else "\n"
        return (
            f"To call a tool, {rule}.{shown}"
            "Stop after the call. You get its result and can then continue."
        )

    def spelled(self, name: str, arguments: Mapping[str, Any]) -> str:
        """Return a call as the model writes it; "" if only the chat template could say how."""
        if self._format is not None:
            return self._format.example(name, arguments)
        return render_call(self._tokenizer, name, arguments)

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


def _format_of(name: str, spelling: CallSpelling | None, tools: ToolInterface) -> CallFormat | None:
    """Return the format; None for a response template."""
    if spelling is not None:
        return SpelledFormat(tools, spelling)
    return None if name == _TEMPLATE else _FORMATS[name](tools)


def _choose_format(
    tokenizer: PreTrainedTokenizerBase,
    tools: ToolInterface,
    call_format: str | Mapping[str, Any],
    settings: Mapping[str, Any],
) -> FoundFormat:
    """Return the format in use; with a reason if it is a guess."""
    if isinstance(call_format, Mapping):
        return FoundFormat(spelling=CallSpelling.from_record(call_format))
    known = (*_FORMATS, _TEMPLATE, _LEARNED)
    if call_format == _TEMPLATE and not has_call_template(tokenizer):
        raise ToolError(
            "the tokenizer has no response_template that reads calls, or this release of "
            "transformers cannot read one: choose one of "
            f"{', '.join(_FORMATS)}"
        )
    if call_format not in ("auto", *known):
        choices = f"{nearest(call_format, known)}: choose auto, {', '.join(known)}"
        raise ToolError(f"unknown call format {call_format!r}{choices}")
    if call_format == _LEARNED:
        found = find_format(tokenizer, settings, {})
        if found.spelling is None:
            raise ToolError(f"{found.reason}: no spelling can be learned from it")
        return found
    if call_format != "auto":
        return FoundFormat(call_format)
    if has_call_template(tokenizer):
        return FoundFormat(_TEMPLATE)
    guessed = _format_with_tokens_in(tokenizer)
    if not tools.names:
        return FoundFormat(guessed)
    found = find_format(tokenizer, settings, {guessed: _FORMATS[guessed], **_FORMATS})
    return replace(found, name=guessed) if found.reason else found


def _warning(reason: str, guessed: str) -> str:
    return (
        f"{reason}: calls are read in the format {guessed!r}, and others are not noticed. Give "
        f"tool_call_format= the format that the model writes: {', '.join(_FORMATS)}, or a spelling "
        "(see docs/tools.md)"
    )


def _format_with_tokens_in(tokenizer: PreTrainedTokenizerBase) -> str:
    template: Any = tokenizer.chat_template or ""
    written = " ".join(template.values()) if isinstance(template, dict) else template
    vocabulary = tokenizer.get_vocab()
    for source in (written, vocabulary):
        for marker, name in _MARKERS.items():
            if marker in source:
                return name
    return "hermes"
