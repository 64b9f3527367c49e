"""The texts of the token ids of a run."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from tokentape.recorder import Recording
from tokentape.recorder.codec import decode
from tokentape.recorder.events import RunStarted, TokensSpelled
from tokentape.recorder.record import RecordFilter

Spell = Callable[[RunStarted, Sequence[int]], Mapping[int, str]]
"""Returns texts of ids of a run whose texts are not recorded; ids without one are left out."""

_SPELLED = RecordFilter(kinds=frozenset((TokensSpelled.__name__,)))


class Vocabulary:
    """The texts that a run and its ancestors recorded of token ids; the run's own come first.

    An ancestor spells the tokens of a turn after its end, which a fork at a token does not share.
    """

    def __init__(self, recording: Recording) -> None:
        self._texts: dict[int, str] = {}
        for each in (recording, *recording.lineage()):
            for record in each.selected(_SPELLED):
                event = decode(each.run_id, record).event
                if isinstance(event, TokensSpelled):
                    for token_id, text in event.texts.items():
                        self._texts.setdefault(int(token_id), text)

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

    def complete(
        self, ids: Iterable[int], spell: Callable[[Sequence[int]], Mapping[int, str]]
    ) -> None:
        """Add the texts that `spell` returns for the ids without a recorded text.

        Negative ids are skipped: they are no tokens.
        """
        missing = [each for each in ids if each >= 0 and each not in self._texts]
        if missing:
            self._texts = {**spell(missing), **self._texts}

    def add(self, other: "Vocabulary") -> None:
        """Add the ids of another run that this one does not have."""
        self._texts = other._texts | self._texts
