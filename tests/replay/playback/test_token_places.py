"""The token of a recorded prompt that a character belongs to, laid out without a tokenizer."""

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from tokentape.replay.playback.token_places import tokens_at

PIECES = st.lists(st.text("ab é🦜", min_size=1, max_size=4), min_size=1, max_size=12)


def token_of(pieces: Sequence[str], offset: int) -> int:
    end = 0
    for index, piece in enumerate(pieces):
        end += len(piece)
        if offset < end:
            return index
    raise AssertionError(f"{offset} is beyond {end}")


@given(pieces=PIECES, data=st.data())
def test_where_all_texts_are_known_it_is_exactly_one(
    pieces: list[str], data: st.DataObject
) -> None:
    text = "".join(pieces)
    offset = data.draw(st.integers(0, len(text) - 1))
    expected = token_of(pieces, offset)
    texts = dict(enumerate(pieces))

    assert tokens_at(range(len(pieces)), text, offset, texts) == (expected, expected)


@given(pieces=PIECES, data=st.data())
def test_where_texts_are_missing_it_is_among_the_named_ones(
    pieces: list[str], data: st.DataObject
) -> None:
    text = "".join(pieces)
    offset = data.draw(st.integers(0, len(text) - 1))
    known = data.draw(st.sets(st.integers(0, len(pieces) - 1)))
    texts = {index: pieces[index] for index in known}
    first, last = tokens_at(range(len(pieces)), text, offset, texts)

    assert first <= token_of(pieces, offset) <= last


def test_bytes_of_a_character_are_tokens_of_their_own() -> None:
    texts = {0: "a", 1: "<0xC3>", 2: "<0xA9>", 3: "b"}

    assert tokens_at((0, 1, 2, 3), "aéb", 1, texts) == (1, 1)
    assert tokens_at((0, 1, 2, 3), "aéb", 2, texts) == (3, 3)


def test_a_text_that_ends_first_ends_after_its_last_token() -> None:
    assert tokens_at((0, 1), "ab", 2, {0: "a", 1: "b"}) == (2, 2)


def test_the_first_token_may_have_lost_its_leading_space() -> None:
    assert tokens_at((0, 1), "ab cd", 3, {0: " ab", 1: " cd"}) == (1, 1)
