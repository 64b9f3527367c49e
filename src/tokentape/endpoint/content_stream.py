"""The text of a growing reply that is certainly content: no part of a call or of a stop string."""

from collections.abc import Sequence

import regex

ANYTHING = ""
"""As the opening of calls: any text may turn out to be one."""


class ContentStream:
    """Takes a reply piece by piece, and gives out what later pieces cannot make something else.

    Held back is what may begin a stop string; and, if the model may call tools, everything from the
    first text on that begins a call or may do so, with the blanks before it. The rest is given out
    by `finish`.
    """

    def __init__(self, stops: Sequence[str], opening: str | None) -> None:
        """`opening` is the pattern that a call begins with; None if the model may call nothing.

        With `ANYTHING`, all is held back.
        """
        self._stops = stops
        self._holds_all = opening == ANYTHING
        self._opening = regex.compile(opening, regex.MULTILINE) if opening else None
        self._text = ""
        self._sent = 0

    def add(self, piece: str) -> str:
        """Return the text that is certain with the next piece, which may be empty."""
        if not piece or self._holds_all:
            return ""
        self._text += piece
        end = min(self._before_stop(), self._before_call())
        if end <= self._sent:
            return ""
        certain = self._text[self._sent : end]
        self._sent = end
        return certain

    def finish(self, content: str) -> str:
        """Return the rest of a reply, given its whole content.

        A content that does not begin with what was given out gets no rest: nothing can be taken
        back. That is so if the text of a malformed call, or a character, was read in another way.
        """
        sent = self._text[: self._sent]
        return content[len(sent) :] if content.startswith(sent) else ""

    def _before_stop(self) -> int:
        """Return where a stop string begins, or may begin, in the text so far."""
        end = len(self._text)
        for stop in self._stops:
            at = self._text.find(stop, max(0, self._sent - len(stop)))
            if at >= 0:
                end = min(end, at)
                continue
            for size in range(min(len(stop) - 1, len(self._text)), 0, -1):
                if self._text.endswith(stop[:size]):
                    end = min(end, len(self._text) - size)
                    break
        return end

    def _before_call(self) -> int:
        if self._opening is None:
            return len(self._text)
        found = self._opening.search(self._text, self._sent, partial=True)
        end = len(self._text) if found is None else found.start()
        return len(self._text[:end].rstrip())
