"""Text that is shown in pieces is escaped as the whole text is."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokentape.recorder.escapes import VisibleLines, visible_lines

MARKS = "a\n\t\u0300\u0e34\u05b8\u200d\ufe0f\x1b\u202e\u3164é"
TEXTS = st.lists(st.one_of(st.text(alphabet=MARKS, max_size=4), st.text(max_size=4)), max_size=6)


@given(TEXTS)
def test_the_pieces_are_escaped_as_the_whole_text(pieces: list[str]) -> None:
    visible = VisibleLines()

    assert "".join(map(visible.add, pieces)) == visible_lines("".join(pieces))


@pytest.mark.parametrize("text", ["ยินดี", "שָׁלוֹם", "क्षि", "e\u0301"])
def test_a_combining_mark_at_the_start_of_a_piece_joins_the_character_before_it(text: str) -> None:
    visible = VisibleLines()

    assert "".join(map(visible.add, text)) == text


def test_a_mark_without_a_character_is_escaped() -> None:
    visible = VisibleLines()

    assert visible.add("\u0301a") + visible.add("\n") + visible.add("\u0301") == (
        "\\u0301a\n\\u0301"
    )
