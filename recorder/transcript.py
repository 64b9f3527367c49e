"""Write a run as text while it is read or recorded."""

from collections.abc import Callable

from tokentape.recorder import Envelope
from tokentape.recorder.escapes import VisibleLines, visible, visible_lines
from tokentape.recorder.events import (
    ConversationImported,
    MessageAdded,
    SystemPromptCached,
    TurnFinished,
    TurnStarted,
)


class TranscriptWriter:
    """Writes the events of a run in order, and the pieces of a reply as they come.

    A piece is passed to `write_reply`, if there is one, with its surprise in nats. `imported` says
    that the events are those of an imported conversation, also if the first ones are left out.
    """

    def __init__(
        self,
        write: Callable[[str], object],
        write_reply: Callable[[str, float | None], object] | None = None,
        *,
        imported: bool = False,
    ) -> None:
        self._write = write
        self._write_reply = write_reply or (lambda text, surprise: write(text))
        self._turn: int | None = None
        self._reply: str | None = None
        self._visible = VisibleLines()
        self._within_line = False
        self._imported = imported

    def event(self, envelope: Envelope) -> None:
        """Write the next event of the run."""
        event = envelope.event
        if isinstance(event, TurnStarted) and self._reply is not None:
            self._cut_off()
        # The system prompt belongs to the first turn, and is written before its heading.
        if envelope.turn not in (None, self._turn) and not isinstance(event, SystemPromptCached):
            self._turn = envelope.turn
            self._line(f"── turn {envelope.turn} ──")
        self._imported = self._imported or isinstance(event, ConversationImported)
        if isinstance(event, TurnFinished):
            self._finish(event)
        elif self._imported and isinstance(event, MessageAdded):
            # No `ToolReturned` shows the results of tools.
            self._line(f"{visible(event.role)}: {visible_lines(event.content)}")
        elif (line := event.describe()) is not None:
            self._line(line)

    def piece(self, text: str, surprise: float | None = None) -> None:
        """Write the next piece of the reply, which may be empty."""
        if not self._within_line:
            self._write("assistant: ")
            self._visible = VisibleLines()
            self._within_line = True
        self._reply = (self._reply or "") + text
        self._write_reply(self._visible.add(text), surprise)

    def close(self) -> None:
        """End the line of an unfinished reply."""
        if self._within_line:
            self._write("\n")
        self._within_line = False

    def _finish(self, event: TurnFinished) -> None:
        reply = self._reply or ""
        rest = event.text[len(reply) :] if event.text.startswith(reply) else f"\n{event.text}"
        self.piece(rest)
        self._reply, self._within_line = None, False
        tokens, seconds = event.generated_tokens, event.duration_us / 1_000_000
        reason = visible(event.stop_reason)
        self._write(f"\n  [{tokens} tokens in {seconds:.1f} s, stopped by {reason}]\n")

    def _cut_off(self) -> None:
        self.close()
        self._reply = None
        self._write("  [cut off]\n")

    def _line(self, text: str) -> None:
        self.close()
        self._write(f"{text}\n")
