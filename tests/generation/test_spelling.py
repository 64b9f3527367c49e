"""A single token is spelled so that it can be recognised."""

from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models
from transformers.convert_slow_tokenizer import bytes_to_unicode

from benchmarks.tiny_models import byte_tokenizer
from tests.generation.text_tokenizers import byte_fallback, fast_tokenizer, unigram, word_pieces
from tokentape.generation.history.spelling import TokenSpeller, spell_token

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


def byte_level(*tokens: bytes) -> Any:
    """Return a tokenizer with these tokens."""
    character = bytes_to_unicode()
    names = ["a", *("".join(character[byte] for byte in token) for token in tokens)]
    backend = Tokenizer(models.WordLevel({name: i for i, name in enumerate(names)}, unk_token="a"))
    backend.decoder = decoders.ByteLevel()
    return fast_tokenizer(backend, unk_token=None, eos_token=None)


def test_a_byte_fallback_token_is_spelled_as_its_byte() -> None:
    tokenizer = byte_fallback()
    spelled = [
        spell_token(tokenizer, token_id)
        for token_id in tokenizer.convert_tokens_to_ids(["<0xE1>", "<0x41>", "▁", "a"])
    ]

    assert spelled == ["<0xE1>", "A", " ", "a"]


@pytest.mark.parametrize(
    ("token", "spelled"),
    [
        (b"\xe1", "<0xE1>"),
        (b" \xe1\x88", " <0xE1><0x88>"),
        ("ሰ".encode(), "ሰ"),
        (b"\x80ok\xff", "<0x80>ok<0xFF>"),
        (REPLACEMENT.encode(), REPLACEMENT),
        (REPLACEMENT.encode() + b"\xe1", f"{REPLACEMENT}<0xE1>"),
        (b"\n", "\n"),
    ],
)
def test_a_byte_level_token_is_spelled_as_its_characters_and_the_bytes_between_them(
    token: bytes, spelled: str
) -> None:
    assert spell_token(byte_level(token), 1) == spelled


def test_every_byte_has_its_spelling() -> None:
    tokenizer = byte_level(*(bytes((byte,)) for byte in range(0x80, 0x100)))

    assert [spell_token(tokenizer, 1 + index) for index in range(0x80)] == [
        f"<0x{byte:02X}>" for byte in range(0x80, 0x100)
    ]


def test_a_replacement_character_of_the_vocabulary_is_spelled_as_itself() -> None:
    tokenizer = byte_fallback()

    assert spell_token(tokenizer, tokenizer.convert_tokens_to_ids(REPLACEMENT)) == REPLACEMENT


def test_a_space_in_front_tells_two_tokens_apart() -> None:
    pieces, words = unigram(), word_pieces()

    assert spell_token(pieces, pieces.convert_tokens_to_ids("▁abc")) == " abc"
    assert spell_token(pieces, pieces.convert_tokens_to_ids("ab")) == "ab"
    assert spell_token(words, words.convert_tokens_to_ids("word")) == " word"
    assert spell_token(words, words.convert_tokens_to_ids("##e")) == "e"


def test_special_tokens_and_unknown_ids_are_spelled() -> None:
    tokenizer = byte_tokenizer()

    assert spell_token(tokenizer, tokenizer.eos_token_id) == "<|im_end|>"
    assert spell_token(tokenizer, 100_000) == ""


@pytest.mark.parametrize(
    "tokenizer",
    [byte_tokenizer(), byte_fallback(), unigram(), byte_level(b"\xe1", "ሰ".encode(), b" to")],
    ids=["bytes", "fallback", "unigram", "words of bytes"],
)
def test_the_bytes_of_tokens_are_those_of_their_texts(tokenizer: Any) -> None:
    speller = TokenSpeller(tokenizer)
    for token_id in range(len(tokenizer)):
        text, utf8 = speller.text(token_id), speller.utf8(token_id)
        if utf8 is not None and REPLACEMENT not in utf8.decode(errors="replace"):
            assert utf8.decode() == text
        elif utf8 is not None:
            assert "<0x" in text


def test_the_bytes_of_a_character_in_two_tokens_are_told() -> None:
    """Clients put the bytes of tokens together."""
    tokenizer = byte_tokenizer()
    speller = TokenSpeller(tokenizer)
    ids = tokenizer.encode("ሰላም, €5", add_special_tokens=False)

    assert b"".join(speller.utf8(each) or b"" for each in ids).decode() == "ሰላም, €5"
    fallback = byte_fallback()
    named = fallback.convert_tokens_to_ids(["<0xE1>", "<0x88>", "<0xB0>"])
    assert b"".join(TokenSpeller(fallback).utf8(each) or b"" for each in named).decode() == "ሰ"
