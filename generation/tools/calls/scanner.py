"""Scan a growing reply for the beginnings and ends of tool calls."""

import re

from tokentape.generation.tools.calls.call_format import CallFormat, OpenCall
from tokentape.generation.tools.calls.parsed_call import ParsedCall

_BLANK = " \t\r\n"
# The token that completes a call may add brackets, a common mistake of models.
_SLIPS = "}])"
# An opening may span the end of the text searched last.
_OPENING_CHARS_MAX = 300
_THINKING = {"<think>": "</think>", "<thinking>": "</thinking>", "[THINK]": "[/THINK]"}
_FENCE, _FENCE_END = r"^[ \t]{0,3}```", "\n```"


class FormatScanner:
    """Scans one reply for the calls of a format; each character is searched about once."""

    def __init__(self, call_format: CallFormat, *, prefix: str) -> None:
        """Start before a reply; `prefix` is the text before it and may open a thinking block."""
        self._format = call_format
        self._blocks = {**_THINKING, **call_format.thinking}
        fence = f"|(?P<fence>{_FENCE})" if call_format.skips_code_blocks else ""
        thinking = "|".join(map(re.escape, self._blocks))
        self._opening = re.compile(
            f"(?P<thinking>{thinking})|(?P<call>{call_format.opening}){fence}", re.MULTILINE
        )
        # End of the current thinking or code block, which has no calls; "" outside of one.
        self._block_end = self._open_block_end(prefix)
        self._at = 0
        self._searched = 0
        self._open_call: tuple[int, OpenCall] | None = None
        self.text = ""
        self._calls: list[ParsedCall] = []
        self._calls_end = 0

    def calls(self, text: str) -> tuple[ParsedCall, ...]:
        """Return the calls of the text so far if it ends with a complete one, else nothing."""
        self._read(text)
        if not self._calls or len(text) - self._calls_end > _OPENING_CHARS_MAX:
            return ()
        rest = text[self._calls_end :].strip(_BLANK + self._format.separators + _SLIPS)
        return () if rest else tuple(self._calls)

    def all_calls(self, text: str) -> tuple[ParsedCall, ...]:
        """Return the calls of a reply that has ended, the incomplete last one too."""
        self._read(text)
        if self._open_call is None:
            return tuple(self._calls)
        left = self._format.parse(text[self._open_call[0] :], closed=False)
        return (*self._calls, *left)

    def _read(self, text: str) -> None:
        self.text = text
        while self._step(text):
            pass

    def _step(self, text: str) -> bool:
        """Move to the next beginning or end; return False if the text has no further one."""
        if self._block_end:
            return self._leave_block(text)
        if self._open_call is not None:
            return self._complete(text, *self._open_call)
        return self._find_opening(text)

    def _find_opening(self, text: str) -> bool:
        opening = self._opening.search(text, max(self._at, self._searched - _OPENING_CHARS_MAX))
        if opening is None:
            self._searched = len(text)
            return False
        self._at = opening.end()
        if opening["thinking"]:
            self._block_end = self._blocks[opening["thinking"]]
        elif opening["call"] is None:
            self._block_end = _FENCE_END
        else:
            open_call = self._format.open_call(opening)
            self._open_call = None if open_call is None else (opening.start(), open_call)
        return True

    def _leave_block(self, text: str) -> bool:
        searched_from = max(self._at, self._searched - len(self._block_end))
        found = text.find(self._block_end, searched_from)
        if found < 0:
            self._searched = len(text)
            return False
        self._at = found + len(self._block_end)
        self._block_end = ""
        return True

    def _open_block_end(self, prefix: str) -> str:
        """Return the end of the thinking block that the prefix opens, or ""."""
        tail = prefix[-_OPENING_CHARS_MAX:].rstrip()
        return next((end for begin, end in self._blocks.items() if tail.endswith(begin)), "")

    def _complete(self, text: str, start: int, open_call: OpenCall) -> bool:
        end = open_call.find_end(text)
        if end is None:
            return False
        calls = self._format.parse(text[start:end], closed=True)
        self._open_call = None
        self._at = end
        if calls:
            self._calls += calls
            self._calls_end = end
        return True


def may_end_call(call_format: CallFormat, text: str) -> bool:
    """Return whether the last characters can end a call. Fast: called after each token."""
    tail = text[-_OPENING_CHARS_MAX:].rstrip(_BLANK + call_format.separators)
    return tail.endswith(call_format.endings)
