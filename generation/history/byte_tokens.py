"""Byte-fallback tokens: one token for one byte, such as `<0xE1>`."""

import codecs
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any
from weakref import WeakKeyDictionary

from transformers import PreTrainedTokenizerBase

_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ByteTokens:
    """The byte-fallback tokens of a tokenizer that decodes each run of them at once.

    `decoders.ByteFallback` of the tokenizers library, which Llama 2, Mistral and Gemma use, gives
    the characters of a run if all of its bytes are valid UTF-8, else a replacement character for
    each byte. The text of other tokens does not depend on the run.
    """

    byte_of: Mapping[int, int]
    """The byte of each token id."""
    anchor: tuple[int, ...]
    """The ids of one character that is no space: a context for the tokens after a run, which
    neither changes their text nor lets them lose a leading space."""
    anchor_text: str

    def split_run(self, ids: Sequence[int]) -> tuple[bytes, Sequence[int]]:
        """Return the bytes of the run that the ids begin with, and the ids after it."""
        run = bytearray()
        for token_id in ids:
            byte = self.byte_of.get(token_id)
            if byte is None:
                break
            run.append(byte)
        return bytes(run), ids[len(run) :]


def run_text(run: bytes) -> str:
    """Return the text of a run of byte-fallback tokens."""
    try:
        return run.decode()
    except UnicodeDecodeError:
        return _REPLACEMENT * len(run)


class ByteRun:
    """A growing run of byte-fallback tokens, at constant cost per byte."""

    def __init__(self, first_bytes: bytes = b"") -> None:
        self._count = 0
        self._characters = ""
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._valid = True
        for byte in first_bytes:
            self.add(byte)

    def add(self, byte: int) -> None:
        """Append a byte."""
        self._count += 1
        if not self._valid:
            return
        try:
            self._characters += self._decoder.decode(bytes((byte,)))
        except UnicodeDecodeError:
            self._valid, self._characters = False, ""

    @property
    def text(self) -> str:
        """The `run_text` of the bytes so far."""
        incomplete = self._valid and self._decoder.getstate()[0]
        if self._valid and not incomplete:
            return self._characters
        return _REPLACEMENT * self._count

    @property
    def final_text(self) -> str:
        """The part of the text that no later byte can change.

        One wrong byte replaces the characters of the whole run: none is final before its end.
        """
        return "" if self._valid else _REPLACEMENT * self._count


_FOUND: WeakKeyDictionary[PreTrainedTokenizerBase, ByteTokens | None] = WeakKeyDictionary()


def byte_tokens_of(tokenizer: PreTrainedTokenizerBase) -> ByteTokens | None:
    """Return the byte-fallback tokens of a tokenizer.

    None without such tokens, and if it decodes byte by byte, as SentencePiece does.
    """
    if tokenizer not in _FOUND:
        _FOUND[tokenizer] = _find_byte_tokens(tokenizer)
    return _FOUND[tokenizer]


def id_of(tokenizer: PreTrainedTokenizerBase, name: str) -> int | None:
    """Return the id of a token by its name; None if the vocabulary lacks it."""
    try:
        found: Any = tokenizer.convert_tokens_to_ids(name)
    except (KeyError, TypeError, ValueError):
        # Tokenizers from model repositories may know no unknown token.
        return None
    # Tokenizers that have one give its id for every name that they lack.
    return None if found is None or found == tokenizer.unk_token_id else int(found)


def _find_byte_tokens(tokenizer: PreTrainedTokenizerBase) -> ByteTokens | None:
    ids = [id_of(tokenizer, f"<0x{byte:02X}>") for byte in range(256)]
    known = {byte: token_id for byte, token_id in enumerate(ids) if token_id is not None}
    wrong = next((byte for byte in known if byte >= 0x80), None)
    anchor = _shortest_character(known)
    if wrong is None or anchor is None:
        return None

    def decode(run: bytes) -> str:
        return str(tokenizer.decode([known[byte] for byte in run], skip_special_tokens=False))

    run = bytes((*anchor, wrong))
    if decode(anchor) != run_text(anchor) or decode(run) != run_text(run):
        return None
    return ByteTokens(
        byte_of={token_id: byte for byte, token_id in known.items()},
        anchor=tuple(known[byte] for byte in anchor),
        anchor_text=run_text(anchor),
    )


def _shortest_character(known: Mapping[int, int]) -> bytes | None:
    """Return the UTF-8 of a character that the known bytes can write and that is no space."""
    tails = [byte for byte in known if 0x80 <= byte < 0xC0]
    leads = {1: range(0x21, 0x7F), 2: range(0xC3, 0xE0), 3: range(0xE1, 0xED), 4: range(0xF1, 0xF4)}
    for length, first in leads.items():
        for lead in (byte for byte in first if byte in known):
            for rest in product(tails, repeat=length - 1):
                return bytes((lead, *rest))
    return None
