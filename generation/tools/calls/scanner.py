"""A reply is read as it grows: where calls begin, where they end, and what is not one."""

import re

from tokentape.generation.tools.calls.call_format import BegunCall, CallFormat
from tokentape.generation.tools.calls.parsed_call import ParsedCall

_BLANK = " \t\r\n"
# A token may hold more than the end of a call: brackets too many are a model's commonest slip.
_SLIPS = "}])"
# An opening may have come in part only when the text was searched last.
_OPENING_CHARS_MAX = 300
_THINKING = {"<think>": "</think>", "<thinking>": "</thinking>", "[THINK]": "[/THINK]"}
_THINKING_OPENS = "|".join(map(re.escape, _THINKING))


class Scanner:
    """One reply. What has been read is not read again: a reply of any length costs its length."""

    def __init__(self, call_format: CallFormat, *, prefix: str) -> None:
        """`prefix` stands before the reply: it may have opened a block of thoughts."""
        self._format = call_format
        self._opening = re.compile(
            f"(?P<thinking>{_THINKING_OPENS})|(?P<call>{call_format.opening})", re.MULTILINE
        )
        # In thoughts there are no calls.
        self._thinking_ends = _thinking_ends(prefix)
        self._at = 0
        self._searched = 0
        self._begun: tuple[int, BegunCall] | None = None
        self.text = ""
        self._calls: list[ParsedCall] = []
        self._calls_end = 0

    def calls(self, text: str) -> tuple[ParsedCall, ...]:
        """All calls of the text so far, if it ends with one that is complete."""
        self._read(text)
        if not self._calls or len(text) - self._calls_end > _OPENING_CHARS_MAX:
            return ()
        rest = text[self._calls_end :].strip(_BLANK + self._format.separators + _SLIPS)
        return () if rest else tuple(self._calls)

    def all_calls(self, text: str) -> tuple[ParsedCall, ...]:
        """All calls of a reply that has ended, the one among them that was not completed."""
        self._read(text)
        if self._begun is None:
            return tuple(self._calls)
        left = self._format.parse(text[self._begun[0] :], closed=False)
        return (*self._calls, *left)

    def _read(self, text: str) -> None:
        self.text = text
        while self._step(text):
            pass

    def _step(self, text: str) -> bool:
        """Read on to the next beginning or end; False where there is none in the text so far."""
        if self._thinking_ends:
            return self._leave_thinking(text)
        if self._begun is not None:
            return self._complete(text, *self._begun)
        return self._begin(text)

    def _begin(self, text: str) -> bool:
        opening = self._opening.search(text, max(self._at, self._searched - _OPENING_CHARS_MAX))
        if opening is None:
            self._searched = len(text)
            return False
        self._at = opening.end()
        if opening["thinking"]:
            self._thinking_ends = _THINKING[opening["thinking"]]
        else:
            begun = self._format.begin(opening)
            self._begun = None if begun is None else (opening.start(), begun)
        return True

    def _leave_thinking(self, text: str) -> bool:
        searched_from = max(self._at, self._searched - len(self._thinking_ends))
        found = text.find(self._thinking_ends, searched_from)
        if found < 0:
            self._searched = len(text)
            return False
        self._at = found + len(self._thinking_ends)
        self._thinking_ends = ""
        return True

    def _complete(self, text: str, start: int, begun: BegunCall) -> bool:
        end = begun.end(text)
        if end is None:
            return False
        calls = self._format.parse(text[start:end], closed=True)
        self._begun = None
        self._at = end
        if calls:
            self._calls += calls
            self._calls_end = end
        return True


def _thinking_ends(prefix: str) -> str:
    tail = prefix[-_OPENING_CHARS_MAX:].rstrip()
    return next((end for begin, end in _THINKING.items() if tail.endswith(begin)), "")


def may_end_a_call(call_format: CallFormat, text: str) -> bool:
    """Whether the last characters can be those of a call; a look at a few characters."""
    tail = text[-_OPENING_CHARS_MAX:].rstrip(_BLANK + call_format.separators)
    return tail.endswith(call_format.endings)
