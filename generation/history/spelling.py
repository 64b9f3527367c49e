"""The spelling of single tokens and of excerpts, for people who look at them."""

import re
from collections.abc import Iterable, Sequence
from functools import cache

from transformers import PreTrainedTokenizerBase

from tokentape.generation.history.decoding import REPLACEMENT, Decoding
from tokentape.generation.history.ordinary_token import ordinary_token

_FALLBACK = re.compile(r"<0x([0-9A-F]{2})>")


def spell_token(tokenizer: PreTrainedTokenizerBase, token_id: int) -> str:
    """Return the text of a token within a text, with its leading space if it has one.

    Bytes that are no complete character are spelled as `<0xE1>`. A token without text, such as an
    id that the tokenizer does not know, has the spelling of its name, or none.
    """
    return TokenSpeller(tokenizer).text(token_id)


def spell_tokens(tokenizer: PreTrainedTokenizerBase, ids: Iterable[int]) -> dict[str, str]:
    """Return the `spell_token` of each id, by its decimal digits.

    An id that the tokenizer fails to decode has an empty text: the vocabulary of a model may be
    larger than that of its tokenizer.
    """
    speller, texts = TokenSpeller(tokenizer), {}
    for token_id in ids:
        try:
            texts[str(token_id)] = speller.text(token_id)
        except Exception:
            # Tokenizers from model repositories raise anything.
            texts[str(token_id)] = ""
    return texts


class TokenSpeller:
    """Spells single tokens of a tokenizer, with what all of them share computed once."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._decoding = Decoding(tokenizer)
        before = ordinary_token(tokenizer)
        self._context = [] if before is None else [before]
        self._start = len(self._decoding.raw(self._context))

    def text(self, token_id: int) -> str:
        """Return the `spell_token` of an id."""
        return _spell(self._tokenizer, token_id, self._decoded(token_id))

    def utf8(self, token_id: int) -> bytes | None:
        """Return the bytes that a token adds to a text in UTF-8; None if they are not known."""
        text = self._decoded(token_id)
        if text and REPLACEMENT not in text:
            return text.encode()
        name = self._tokenizer.convert_ids_to_tokens(token_id)
        if not isinstance(name, str) or not name:
            return None
        if fallback := _FALLBACK.fullmatch(name):
            return bytes.fromhex(fallback[1])
        raw = _bytes_of(name)
        return raw if raw is not None and raw.decode(errors="replace") == text else None

    def _decoded(self, token_id: int) -> str:
        return self._decoding.raw([*self._context, token_id])[self._start :]


def _spell(tokenizer: PreTrainedTokenizerBase, token_id: int, text: str) -> str:
    """Return the spelling of a token whose decoded text is `text`."""
    if text and REPLACEMENT not in text:
        return text
    name = tokenizer.convert_ids_to_tokens(token_id)
    if not isinstance(name, str) or not name:
        return text
    if not text:
        return name
    raw = _bytes_of(name)
    if raw is None or raw.decode(errors="replace") != text:
        return name if name.startswith("<0x") else text
    return _spell_bytes(raw)


def excerpt(tokenizer: PreTrainedTokenizerBase, before: Sequence[int], ids: Sequence[int]) -> str:
    """Return the text of ids that are cut out of a longer sequence; see `decode_after`.

    The first bytes of a character that ends after the ids are spelled as `<0xE1>`, and do not
    change the characters before them.
    """
    decoding = Decoding(tokenizer)
    first_bytes = decoding.context_after(ids).first_bytes or b""
    complete = ids[: len(ids) - len(first_bytes)]
    return decoding.after(before, complete) + "".join(f"<0x{byte:02X}>" for byte in first_bytes)


def _bytes_of(name: str) -> bytes | None:
    """Return the bytes of a byte-level token, or None if its name has other characters."""
    byte_of = _byte_level_alphabet()
    found = [byte_of.get(character) for character in name]
    return None if None in found else bytes(byte for byte in found if byte is not None)


@cache
def _byte_level_alphabet() -> dict[str, int]:
    """Return the byte of each character of GPT-2's alphabet, which byte-level tokens are named in.

    A printable Latin-1 character names its own byte; the other bytes have, in order, the characters
    from U+0100 on.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    alphabet = {chr(byte): byte for byte in printable}
    return alphabet | {chr(0x100 + index): byte for index, byte in enumerate(others)}


def _spell_bytes(raw: bytes) -> str:
    """Return the characters of UTF-8, and the hexadecimal value of each byte that belongs to none.

    A replacement character that is meant is one of the characters.
    """
    text = raw.decode(errors="surrogateescape")
    return "".join(
        f"<0x{ord(each) - 0xDC00:02X}>" if "\udc80" <= each <= "\udcff" else each for each in text
    )
