"""Python as models write it: where a bracket is closed while it is still being written."""

import re

_CLOSING = {"(": ")", "[": "]", "{": "}"}
_MARKS = re.compile(r"""["'()\[\]{}]""")
_IN_STRING = re.compile(r"""["'\\\n]""")


class PythonEnd:
    """Finds where the bracket at `start` is closed, reading on as the text grows.

    `broken` says that it ends earlier, at a wrong bracket or a string without an end.
    """

    def __init__(self, start: int) -> None:
        self._at = start
        self._open: list[str] = []
        self._quote = ""
        self.broken = False

    def find(self, text: str) -> int | None:
        """Where it ends in this text, None as long as it goes on."""
        while True:
            mark = (_IN_STRING if self._quote else _MARKS).search(text, self._at)
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
        """True where it is the last one, or a wrong one."""
        self._at += 1
        if bracket in _CLOSING:
            self._open.append(_CLOSING[bracket])
            return False
        self.broken = not self._open or self._open.pop() != bracket
        return self.broken or not self._open

    def _begin_string(self, text: str, quote: str) -> bool:
        """False where the next characters have to show whether three quotes begin it."""
        if text.startswith(3 * quote, self._at):
            self._quote = 3 * quote
        elif len(text) < self._at + 3 and not text[self._at :].strip(quote):
            return False
        else:
            self._quote = quote
        self._at += len(self._quote)
        return True

    def _string(self, text: str, mark: str) -> bool:
        """Past a backslash, a quote or a line break in a string; False where more must come."""
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
            return False  # one or two of three quotes
        else:
            self._at += 1
        return True
