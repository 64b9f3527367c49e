"""Where the parts of a prompt begin, in tokens and in characters."""

from dataclasses import dataclass, field

from tokentape.recorder.events import HistoryPruned


@dataclass(slots=True)
class StreamPlaces:
    """The beginnings of the messages in the stream of a run, without ids and texts."""

    tokens: int = 0
    chars: int = 0
    _starts: list[tuple[int, int]] = field(default_factory=list)
    """Tokens and characters before each part, in order."""
    _committed: tuple[int, int, tuple[tuple[int, int], ...]] = (0, 0, ())

    def extend(self, tokens: int, chars: int) -> None:
        """Append a part."""
        if tokens:
            self._starts.append((self.tokens, self.chars))
        self.tokens += tokens
        self.chars += chars

    def cut(self, tokens: int, chars: int) -> None:
        """Keep the beginning of the stream."""
        self.tokens, self.chars = tokens, chars
        while self._starts and self._starts[-1][0] >= tokens:
            self._starts.pop()

    def prune(self, event: HistoryPruned) -> None:
        """Remove ranges; the beginnings of the parts after the first of them are lost."""
        first = event.removed_tokens[0][0] if event.removed_tokens else self.tokens
        self.tokens = event.tokens_after
        self.chars -= sum(end - start for start, end in event.removed_chars)
        self._starts = [each for each in self._starts if each[0] < first]

    def before(self, index: int) -> tuple[int, int] | None:
        """Return the beginning of the last known part that begins at the token or before it."""
        found = [each for each in self._starts if each[0] <= index < self.tokens]
        return found[-1] if found else None

    def commit(self) -> None:
        """Remember the state, to return to."""
        self._committed = (self.tokens, self.chars, tuple(self._starts))

    def restore(self) -> None:
        """Return to the last state that was remembered."""
        self.tokens, self.chars, starts = self._committed
        self._starts = list(starts)
