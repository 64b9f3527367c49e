"""Calls as the tokenizer's own response template reads them."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from transformers import PreTrainedTokenizerBase

from tokentape.generation.tools.calls.parsed_call import ParsedCall, broken, call_of_object
from tokentape.generation.tools.interface import ToolInterface

_CALLS = "tool_calls"


def reads_calls(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the tokenizer has a response template with a field for calls."""
    return bool(_field(tokenizer))


def closers(tokenizer: PreTrainedTokenizerBase) -> tuple[str, ...]:
    """What calls end with; nothing where that is a pattern, or only the end of the reply."""
    close = _field(tokenizer).get("close", ())
    return (close,) if isinstance(close, str) else tuple(close)


class TemplateScanner:
    """One reply, fed to transformers' own parser as it grows."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, tools: ToolInterface, *, prefix: str
    ) -> None:
        self._tools = tools
        # Bare text is cast by the schemas. JSON has types of its own: its "null" is a text.
        bare = _field(tokenizer).get("content") != "json"
        schemas: list[Any] = tools.get_available_tools() if bare else []
        self._parser = tokenizer.get_response_parser(prefix=prefix, tools=schemas)
        literals = closers(tokenizer)
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
        """All calls of the text so far, if it ends with one that is complete."""
        self._read(text)
        return () if text[self._calls_end :].strip() else tuple(self._calls)

    def all_calls(self, text: str) -> tuple[ParsedCall, ...]:
        """All calls of a reply that has ended, those that only its end completes among them."""
        self._read(text)
        if self._failed:
            return tuple(self._calls)
        try:
            _, events = self._parser.finalize()
        except Exception as error:  # what a template does with a reply is up to its author
            if self._in_call:
                self._fail(text, error)
        else:
            self._take(events, text)
        self._failed = True  # it is spent
        return tuple(self._calls)

    def _read(self, text: str) -> None:
        self.text = text
        for end in self._stops(text):
            if self._failed:
                return
            piece, self._fed = text[self._fed : end], end
            try:
                events = self._parser.feed(piece)
            except Exception as error:  # the parser raises whatever the content of a call raises
                self._fail(text[:end], error)
            else:
                self._take(events, text[:end])

    def _stops(self, text: str) -> Iterator[int]:
        """Where to look at what came of it: behind each closer, else behind each character."""
        if self._closer is None:
            yield from range(self._fed + 1, len(text) + 1)
            return
        for closer in self._closer.finditer(text, max(0, self._fed - self._closer_chars)):
            if closer.end() > self._fed:
                yield closer.end()
        if len(text) > self._fed:
            yield len(text)

    def _take(self, events: list[dict[str, Any]], text: str) -> None:
        for event in events:
            ours = event["field"] == _CALLS
            if event["type"] == "region_open" and ours:
                self._in_call = True
            elif event["type"] == "region_chunk" and not ours:
                found = text.find(event["text"], self._prose_end)
                if found >= 0:
                    self._prose_end = found + len(event["text"])
            elif event["type"] == "region_close" and ours:
                self._in_call = False
                value = event["value"]
                written = self._written(text)
                values = value if isinstance(value, list) else [value]
                self._calls += [call_of_object(each, written, self._tools) for each in values]
                if not values:
                    self._calls.append(broken(written, "there is no call in the list"))

    def _fail(self, text: str, error: Exception) -> None:
        """The parser is of no use any more: the reply is read up to here."""
        self._failed = True
        reason = " ".join(str(error).split())
        written = self._written(text)
        self._calls.append(broken(written, f"the call cannot be read: {reason[:300]}"))

    def _written(self, text: str) -> str:
        written = text[max(self._prose_end, self._calls_end) :].strip()
        self._calls_end = self._prose_end = len(text)
        return written


def _field(tokenizer: PreTrainedTokenizerBase) -> Mapping[str, Any]:
    template = getattr(tokenizer, "response_template", None)
    fields = template.get("fields") if isinstance(template, dict) else None
    field = fields.get(_CALLS) if isinstance(fields, dict) else None
    return field if isinstance(field, dict) else {}
