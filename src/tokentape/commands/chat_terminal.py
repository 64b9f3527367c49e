"""The terminal of `tokentape chat`."""

import codecs
import io
import sys
from collections.abc import Iterator

from tokentape.screen import err, out


class StandardTerminal:
    """Standard input and output: replies go to standard output, messages to standard error."""

    def lines(self) -> Iterator[str]:
        """Yield the typed lines, with a prompt if a person types them."""
        interactive = sys.stdin.isatty()
        if isinstance(sys.stdin, io.TextIOWrapper):
            # Bytes that are no text are shown as such and do not end the chat. Without a locale the
            # input is declared as ASCII, and people type UTF-8, which contains ASCII.
            is_ascii = codecs.lookup(sys.stdin.encoding).name == "ascii"
            sys.stdin.reconfigure(encoding="utf-8" if is_ascii else None, errors="replace")
        while True:
            if interactive:
                self.note("> ")
            line = sys.stdin.readline()
            if not line:
                if interactive:
                    self.note("\n")
                return
            yield line

    def show(self, text: str) -> None:
        """Write a piece of a reply to standard output."""
        out.text(text)
        out.flush()

    def note(self, text: str) -> None:
        """Write a message to standard error."""
        err.text(text)
        err.flush()
