"""Find the end of a bracket in Python that a model is still writing."""

import re

_CLOSING = {"(": ")", "[": "]", "{": "}"}
_MARKERS = re.compile(r"""["'()\[\]{}]""")
_IN_STRING = re.compile(r"""["'\\\n]""")


class PythonEndFinder:
    """Finds where the bracket at `start` of a growing text is closed.

    `broken` becomes True if it ends earlier: at a wrong bracket or an unterminated string.
    """

    def __init__(self, start: int) -> None:
        self._at = start
        self._open: list[str] = []
        self._quote = ""
        self.broken = False

    def find(self, text: str) -> int | None:
        """Return the index after the closing bracket; None if it is not in the text yet."""
        while True:
            mark = (_IN_STRING if self._quote else _MARKERS).search(text, self._at)
            if mark is None:
                self._at = len(text)
                return None
            self._at = mark.start()
            if self._quote:
                moved = self._string(text, mark.group())
            elif mark.group() in "'\"":
                moved = self._begin_string(text, mark.group())
            elif self._bracket(mark.group()):
                return self._at
            else:
                continue
            if self.broken:
                return self._at
            if not moved:
                return None

    def _bracket(self, bracket: str) -> bool:
        """Move past a bracket; return True if it is the last one or a wrong one."""
        self._at += 1
        if bracket in _CLOSING:
            self._open.append(_CLOSING[bracket])
            return False
        self.broken = not self._open or self._open.pop() != bracket
        return self.broken or not self._open

    def _begin_string(self, text: str, quote: str) -> bool:
        """Enter a string; return False if only more text shows whether three quotes open it."""
        if text.startswith(3 * quote, self._at):
            self._quote = 3 * quote
        elif len(text) < self._at + 3 and not text[self._at :].strip(quote):
            return False
        else:
            self._quote = quote
        self._at += len(self._quote)
        return True

    def _string(self, text: str, mark: str) -> bool:
        """Move past a backslash, quote or line break in a string; return False to wait for more."""
        if mark == "\\":
            if self._at + 1 == len(text):
                return False
            self._at += 2
        elif mark == "\n":
            self._at += 1
            self.broken = len(self._quote) == 1
        elif text.startswith(self._quote, self._at):
            self._at += len(self._quote)
            self._quote = ""
        elif mark == self._quote[0] and not text[self._at :].strip(mark):
            return False  # maybe the start of three quotes
        else:
            self._at += 1
        return True
