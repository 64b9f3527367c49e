"""Plain-text rendering of the first difference of two texts or tokens."""

import re
from collections.abc import Iterator

from tokentape.recorder.escapes import quoted
from tokentape.replay.run_diff.diff_types import Pair, SampledToken, TextDifference

_TEXT_COLUMNS = 80
_WORD_COLUMNS = 40
_WORD_CHARS_MAX = 20
_FIRST_WORD = re.compile(r"\s*\S*")
_WORD_BEGUN = re.compile(rf" ?\S{{0,{_WORD_CHARS_MAX}}}\Z")
_ENDED = "(end)"


def first_words(text: TextDifference) -> str:
    """Return the first word of each side from the difference on."""
    _, *sides = _from_word(text, _WORD_COLUMNS)
    words = [word[0] for side in sides if (word := _FIRST_WORD.match(side))]
    return " / ".join(quoted(word, _WORD_COLUMNS) if word else _ENDED for word in words)


def text_lines(text: TextDifference) -> Iterator[str]:
    """Yield a line of the text before a difference, and a line of each side."""
    before, a, b = _from_word(text, _TEXT_COLUMNS)
    after = quoted(before, _TEXT_COLUMNS, keep="end")
    yield f"    after {after}" if before else "    at the beginning"
    yield f"    a  {quoted(a, _TEXT_COLUMNS)}"
    yield f"    b  {quoted(b, _TEXT_COLUMNS)}"


def sampled_texts(sampled: Pair[SampledToken | None]) -> str:
    """Return the text of the token that each run sampled; its id where no text was recorded.

    Tokens that look alike have their id as well.
    """
    sides = (sampled.a, sampled.b)
    shown = [_ENDED if each is None else _token(each) for each in sides]
    if shown[0] == shown[1]:
        shown = [f"{shown[0]} (id {each.token_id})" for each in sides if each is not None]
    return " / ".join(shown)


def are_spelled(sampled: Pair[SampledToken | None]) -> bool:
    """Return whether the text of each token is recorded."""
    return all(each is None or each.text is not None for each in (sampled.a, sampled.b))


def _token(token: SampledToken) -> str:
    return quoted(token.text, _WORD_COLUMNS) if token.text else f"id {token.token_id}"


def _from_word(text: TextDifference, columns: int) -> tuple[str, str, str]:
    """Return the text before, and both sides from the beginning of the differing word on.

    They begin at the first character that differs where the word has ended there in one of them, or
    would be cut before it.
    """
    word = _WORD_BEGUN.search(text.before)
    if word is None or not all(side[:1].strip() for side in (text.a, text.b)):
        return text.before, text.a, text.b
    a, b = word[0] + text.a, word[0] + text.b
    if quoted(a, columns) == quoted(b, columns):
        return text.before, text.a, text.b
    return text.before[: word.start()], a, b
