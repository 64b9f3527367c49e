"""What a stream gives out early is never taken back."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("regex", reason="the extra `serve` has it")

from tokentape.endpoint.content_stream import ANYTHING, ContentStream

CALL = "<call>"
TEXTS = st.text("<cal> xy\n", max_size=30)


def streamed(pieces: Sequence[str], content: str, stops: Sequence[str], opening: str | None) -> str:
    stream = ContentStream(stops, opening)
    return "".join(map(stream.add, pieces)) + stream.finish(content)


def cut(text: str, sizes: Sequence[int]) -> list[str]:
    pieces = []
    for size in sizes:
        pieces.append(text[:size])
        text = text[size:]
    return [*pieces, text]


@given(TEXTS, st.lists(st.integers(0, 5), max_size=12), st.lists(st.text("xy<", min_size=1)))
def test_a_text_is_given_out_up_to_its_first_stop(
    text: str, sizes: list[int], stops: list[str]
) -> None:
    found = [at for at in (text.find(stop) for stop in stops) if at >= 0]
    content = text[: min(found, default=len(text))]

    assert streamed(cut(text, sizes), content, stops, None) == content


@given(TEXTS, st.lists(st.integers(0, 5), max_size=12))
def test_a_text_is_given_out_up_to_the_blanks_before_its_first_call(
    text: str, sizes: list[int]
) -> None:
    before, call, _ = text.partition(CALL)
    content = before.rstrip() if call else text

    assert streamed(cut(text, sizes), content, (), CALL) == content


def test_nothing_is_given_out_early_where_any_text_may_be_a_call() -> None:
    stream = ContentStream((), ANYTHING)

    assert [stream.add(each) for each in ("He", "llo")] == ["", ""]
    assert stream.finish("Hello") == "Hello"


def test_what_cannot_become_a_call_is_given_out_at_once() -> None:
    stream = ContentStream(["STOP"], CALL)
    given_out = [stream.add(each) for each in ("a < b", ", <c", "at> ", "ST", "ART")]

    assert given_out == ["a < b", ",", " <cat>", " ", "START"]
