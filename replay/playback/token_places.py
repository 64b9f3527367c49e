"""Which token of a recorded prompt a character of its text belongs to, without a tokenizer."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tokentape.recorder.events import MessageAdded, SystemPromptCached
from tokentape.replay.playback.recorded_turns import RecordedRound

_BYTE = re.compile(r"<0x([0-9A-F]{2})>")
_AROUND = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownToken:
    """A token of a recorded prompt."""

    index: int
    token_id: int
    text: str | None
    """None if the run does not record it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenPlace:
    """The token of a prompt at which another text would part from it."""

    first: int
    """Index in the prompt, of the first token that it may be."""
    last: int
    """Index of the last one; equal to `first` where the recorded texts say which token it is."""
    around: tuple[ShownToken, ...]
    """The tokens from a few before `first` to a few after `last`."""

    @property
    def token(self) -> ShownToken | None:
        """The token; None if it is one of several."""
        if self.first != self.last:
            return None
        return next((each for each in self.around if each.index == self.first), None)


@dataclass(frozen=True, slots=True)
class _Segment:
    """A part of a prompt whose borders are those of tokens and of characters."""

    start: int
    ids: Sequence[int]
    text: str


def place_in_message(
    round_: RecordedRound,
    added: MessageAdded | SystemPromptCached,
    character: int,
    texts: Mapping[int, str],
) -> TokenPlace | None:
    """Return the token of a round's prompt that has this character of a message's content.

    None if the prompt does not have the content as it was given: a template may change it, and a
    redacted run has no ids.
    """
    segment = _segment_of(round_, added)
    offset = _offset_of(segment.text, added.content, character)
    if offset is None or not any(segment.ids):
        return None
    first, last = tokens_at(segment.ids, segment.text, offset, texts)
    return place_of(round_.turn.prompt_ids, segment.start + first, segment.start + last, texts)


def place_of(ids: Sequence[int], first: int, last: int, texts: Mapping[int, str]) -> TokenPlace:
    """Return the place of a prompt's tokens, with those around it."""
    shown = range(max(0, first - _AROUND), min(len(ids), last + 1 + _AROUND))
    around = tuple(
        ShownToken(index=each, token_id=ids[each], text=texts.get(ids[each])) for each in shown
    )
    return TokenPlace(first=first, last=last, around=around)


def _segment_of(round_: RecordedRound, added: MessageAdded | SystemPromptCached) -> _Segment:
    """Return the part of the prompt that a message is in; all of it if no event says where."""
    turn = round_.turn
    ids, text = turn.prompt_ids, turn.prompt_text
    if isinstance(added, SystemPromptCached):
        if added.ids and text.startswith(added.text):
            return _Segment(0, added.ids, added.text)
        return _Segment(0, ids, text)
    kept, chars = turn.started.kept_tokens, turn.started.kept_chars
    for each in reversed(turn.messages):
        kept, chars = kept - len(each.ids), chars - len(each.text)
        if each is added and each.ids and kept >= 0 and text.startswith(each.text, chars):
            return _Segment(kept, each.ids, each.text)
    kept, chars = turn.started.kept_tokens, turn.started.kept_chars
    if not added.ids and added.content.strip() in text[chars:]:
        return _Segment(kept, ids[kept:], text[chars:])
    return _Segment(0, ids, text)


def _offset_of(text: str, content: str, character: int) -> int | None:
    """Return where a character of the content is in the text; templates trim contents."""
    found = text.rfind(content)
    if found >= 0:
        return found + character
    trimmed = content.strip()
    found = text.rfind(trimmed) if trimmed else -1
    if found < 0:
        return None
    before = len(content) - len(content.lstrip())
    return found + min(max(character - before, 0), len(trimmed))


def tokens_at(
    ids: Sequence[int], text: str, offset: int, texts: Mapping[int, str]
) -> tuple[int, int]:
    """Return the first and the last of the tokens of a text that may have a character of it.

    `texts` are those that are recorded. The tokens are laid along the text from both ends, as far
    as they are known; where all are, the two are one.
    """
    data, target = text.encode(), len(text[:offset].encode())
    if target >= len(data):
        # The text ends where the other one goes on.
        return len(ids), len(ids)
    pieces = [text_bytes(texts[each]) if each in texts else None for each in ids]
    start, first = 0, 0
    while first < len(pieces) - 1:
        end = _end_of(pieces[first], data, start)
        if end is None or end > target:
            break
        start, first = end, first + 1
    end = _end_of(pieces[first], data, start)
    if end is not None and start <= target < end:
        return first, first
    end, last = len(data), len(pieces) - 1
    while last > first:
        piece = pieces[last]
        if not piece or not data.endswith(piece, 0, end) or end - len(piece) <= target:
            break
        end, last = end - len(piece), last - 1
    piece = pieces[last]
    if piece and data.endswith(piece, 0, end) and end - len(piece) <= target:
        return last, last
    if last - first + 1 == end - start:
        # Each of them has one byte.
        return first + target - start, first + target - start
    return first, last


def _end_of(piece: bytes | None, data: bytes, start: int) -> int | None:
    """Return where a piece ends that begins there; None if it is unknown or another one."""
    if not piece:
        return None
    if data.startswith(piece, start):
        return start + len(piece)
    # Some tokenizers leave out the leading space of a text's first token.
    if start == 0 and piece[:1] == b" " and len(piece) > 1 and data.startswith(piece[1:]):
        return len(piece) - 1
    return None


def text_bytes(text: str) -> bytes:
    """Return the bytes of a token as it is spelled; see `TokensSpelled`."""
    # Odd parts are the digits of a byte.
    parts = _BYTE.split(text)
    return b"".join(
        bytes.fromhex(part) if index % 2 else part.encode() for index, part in enumerate(parts)
    )
