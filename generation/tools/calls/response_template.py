"""Read tool calls with the tokenizer's response template."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from transformers import PreTrainedTokenizerBase

from tokentape.generation.tools.calls.parsed_call import ParsedCall, call_of_object, malformed_call
from tokentape.generation.tools.interface import ToolInterface

_CALLS = "tool_calls"


def has_call_template(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Return whether the tokenizer has a response template with a field for calls."""
    return bool(_field(tokenizer))


def call_endings(tokenizer: PreTrainedTokenizerBase) -> tuple[str, ...]:
    """Return the strings that end calls; empty if a pattern or the end of the reply does."""
    close = _field(tokenizer).get("close", ())
    return (close,) if isinstance(close, str) else tuple(close)


class TemplateScanner:
    """Feeds one growing reply to transformers' response parser."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, tools: ToolInterface, *, prefix: str
    ) -> None:
        self._tools = tools
        # Schemas let the parser cast values of untyped text. In JSON values have types: the string
        # "null" is not a null, so the parser gets no schemas there.
        untyped = _field(tokenizer).get("content") != "json"
        schemas: list[Any] = tools.get_available_tools() if untyped else []
        self._parser = tokenizer.get_response_parser(prefix=prefix, tools=schemas)
        literals = call_endings(tokenizer)
        self._closer = re.compile("|".join(map(re.escape, literals))) if literals else None
        self._closer_chars = max(map(len, literals), default=0)
        self._fed = 0
        self._prose_end = 0
        self._in_call = False
        self._failed = False
        self._calls: list[ParsedCall] = []
        self._calls_end = 0
        self.text = ""

    def calls(self, text: str) -> tuple[ParsedCall, ...]:
        """Return the calls of the text so far if it ends with a complete one, else nothing."""
        self._read(text)
        return () if text[self._calls_end :].strip() else tuple(self._calls)

    def all_calls(self, text: str) -> tuple[ParsedCall, ...]:
        """Return the calls of a reply that has ended, also those that only its end completes."""
        self._read(text)
        if self._failed:
            return tuple(self._calls)
        try:
            _, events = self._parser.finalize()
        except Exception as error:  # a template may raise anything
            if self._in_call:
                self._fail(text, error)
        else:
            self._add(events, text)
        self._failed = True  # a parser cannot be used after finalize
        return tuple(self._calls)

    def _read(self, text: str) -> None:
        self.text = text
        for end in self._stops(text):
            if self._failed:
                return
            piece, self._fed = text[self._fed : end], end
            try:
                events = self._parser.feed(piece)
            except Exception as error:  # the parser raises what parsing the content raises
                self._fail(text[:end], error)
            else:
                self._add(events, text[:end])

    def _stops(self, text: str) -> Iterator[int]:
        """Yield where to look at the parser's events: after each call ending, else each character.

        A call's text is the text before the ending, so the events must be read right there.
        """
        if self._closer is None:
            yield from range(self._fed + 1, len(text) + 1)
            return
        for closer in self._closer.finditer(text, max(0, self._fed - self._closer_chars)):
            if closer.end() > self._fed:
                yield closer.end()
        if len(text) > self._fed:
            yield len(text)

    def _add(self, events: list[dict[str, Any]], text: str) -> None:
        for event in events:
            is_call = event["field"] == _CALLS
            if event["type"] == "region_open" and is_call:
                self._in_call = True
            elif event["type"] == "region_chunk" and not is_call:
                found = text.find(event["text"], self._prose_end)
                if found >= 0:
                    self._prose_end = found + len(event["text"])
            elif event["type"] == "region_close" and is_call:
                self._in_call = False
                value = event["value"]
                written = self._call_text(text)
                values = value if isinstance(value, list) else [value]
                self._calls += [call_of_object(each, written, self._tools) for each in values]
                if not values:
                    self._calls.append(malformed_call(written, "the array of calls is empty"))

    def _fail(self, text: str, error: Exception) -> None:
        """Record a malformed call; after an error of the parser the reply is not read further."""
        self._failed = True
        reason = " ".join(str(error).split())
        written = self._call_text(text)
        self._calls.append(malformed_call(written, f"the call cannot be read: {reason[:300]}"))

    def _call_text(self, text: str) -> str:
        written = text[max(self._prose_end, self._calls_end) :].strip()
        self._calls_end = self._prose_end = len(text)
        return written


def _field(tokenizer: PreTrainedTokenizerBase) -> Mapping[str, Any]:
    # Older releases of transformers have no parser for it.
    has_parser = hasattr(tokenizer, "get_response_parser")
    template = getattr(tokenizer, "response_template", None) if has_parser else None
    fields = template.get("fields") if isinstance(template, dict) else None
    field = fields.get(_CALLS) if isinstance(fields, dict) else None
    return field if isinstance(field, dict) else {}
