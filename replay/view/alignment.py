"""Alignment of two replies by their token ids."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

_PAIRS_OF_REPLY = 50_000
_PAIRS = 300_000

Piece = tuple[str, int, int, int, int]
"""`equal`, `replace`, `delete` or `insert`, a half-open range of `a` and one of `b`."""


@dataclass(slots=True)
class Aligner:
    """Aligns the replies of two runs, in a time that is bounded for all of them together.

    The time grows with the pairs of equal tokens. Replies with too many, such as long loops of a
    few tokens, are aligned at their equal beginnings and ends only.
    """

    pairs_left: int = _PAIRS

    def align(self, a: Sequence[int], b: Sequence[int]) -> list[Piece]:
        """Return the pieces that turn `a` into `b`, in order."""
        begin = _common_length(a, b)
        end = _common_length(a[begin:][::-1], b[begin:][::-1])
        inner_a, inner_b = a[begin : len(a) - end], b[begin : len(b) - end]
        pieces: list[Piece] = [("equal", 0, begin, 0, begin)] if begin else []
        pieces += self._inner(inner_a, inner_b, begin)
        if end:
            pieces.append(("equal", len(a) - end, len(a), len(b) - end, len(b)))
        return pieces

    def _inner(self, a: Sequence[int], b: Sequence[int], begin: int) -> list[Piece]:
        counts = Counter(b)
        pairs = sum(count * counts[token_id] for token_id, count in Counter(a).items())
        found: Sequence[Piece] = []
        if 0 < pairs <= min(_PAIRS_OF_REPLY, self.pairs_left):
            self.pairs_left -= pairs
            found = SequenceMatcher(None, a, b, autojunk=False).get_opcodes()
        elif a or b:
            tag = "replace" if a and b else "delete" if a else "insert"
            found = [(tag, 0, len(a), 0, len(b))]
        return [
            (tag, a0 + begin, a1 + begin, b0 + begin, b1 + begin) for tag, a0, a1, b0, b1 in found
        ]


def _common_length(a: Sequence[int], b: Sequence[int]) -> int:
    pairs = enumerate(zip(a, b, strict=False))
    return next((i for i, (one, other) in pairs if one != other), min(len(a), len(b)))
