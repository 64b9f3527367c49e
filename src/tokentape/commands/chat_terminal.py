"""The terminal of `tokentape chat`."""

import codecs
import io
import sys
from collections.abc import Iterator

from tokentape.recorder.events import Event, TokenSampled
from tokentape.recorder.turn_progress import TurnProgress
from tokentape.screen import err
from tokentape.streaming_text import StreamingText


class StandardTerminal:
    """Standard input and output: replies go to standard output, messages to standard error.

    A reply is coloured by surprise, and has a progress line below it while it is generated.
    """

    def __init__(self) -> None:
        self._text = StreamingText()
        self._progress = TurnProgress()
        self._surprise: float | None = None

    def show_legend(self) -> None:
        """Say what the colours mean, where there are any."""
        self._text.show_legend()

    def on_event(self, event: Event) -> None:
        """Take note of an event of the run, before the text of its token is shown."""
        self._progress.event(event)
        if isinstance(event, TokenSampled):
            self._surprise = -event.logprob

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
        self._text.add(text, self._surprise)
        self._surprise = None
        if self._progress.turn is not None:
            self._text.status(f"{self._progress.place}: {self._progress.tokens}")

    def note(self, text: str) -> None:
        """Write a message to standard error."""
        self._text.clear()
        err.text(text)
        err.flush()
