"""The texts of the token ids of a run."""

from collections.abc import Iterable
from typing import Any

from tokentape.recorder import Envelope
from tokentape.recorder.events import TokensSpelled


class Vocabulary:
    """The texts that a run and its ancestors recorded of token ids; the run's own come first."""

    def __init__(self, run_id: str, envelopes: Iterable[Envelope]) -> None:
        self._texts: dict[int, str] = {}
        own: dict[int, str] = {}
        for each in envelopes:
            if isinstance(each.event, TokensSpelled):
                texts = own if each.run_id == run_id else self._texts
                texts.update((int(token_id), text) for token_id, text in each.event.texts.items())
        self._texts |= own

    def text(self, token_id: int) -> str | None:
        """Return the text of an id; None where none is recorded."""
        return self._texts.get(token_id)

    def token(self, token_id: int | None) -> dict[str, Any] | None:
        """Return an id with its text, as the document has a single token."""
        return None if token_id is None else {"id": token_id, "text": self.text(token_id)}

    def values(self) -> dict[str, Any]:
        """Return all ids in ascending order, and their texts."""
        ids = sorted(self._texts)
        return {"ids": ids, "texts": [self._texts[each] for each in ids]}

    def add(self, other: "Vocabulary") -> None:
        """Add the ids of another run that this one does not have."""
        self._texts = other._texts | self._texts
