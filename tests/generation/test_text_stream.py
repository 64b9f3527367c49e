"""A reply is decoded incrementally, and the pieces are its text."""

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

import tokentape as tt
from benchmarks.tiny_models import byte_tokenizer
from tests.generation.text_tokenizers import MAKERS, ids_for, text_tokenizer
from tokentape.generation.history.decoding import decode_after, decode_reply
from tokentape.generation.history.text_stream import TextStream

BYTES = byte_tokenizer()


def streamed(
    tokenizer: PreTrainedTokenizerFast, before: Sequence[int], ids: Sequence[int]
) -> tuple[list[str], str]:
    stream = TextStream(tokenizer, before)
    pieces = [stream.add(token_id) for token_id in ids]
    return pieces, stream.finish(decode_after(tokenizer, before, ids))


def metaspace_tokenizer() -> PreTrainedTokenizerFast:
    """Return a tokenizer that drops the space before the first word when it decodes."""
    words = ["<unk>", "</s>", "▁Say", "▁one", "▁two", "three", "."]
    backend = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=backend, eos_token="</s>", clean_up_tokenization_spaces=False
    )


def test_a_character_of_several_tokens_is_returned_with_its_last_token() -> None:
    before, ids = BYTES.encode("Hi"), BYTES.encode("é漢🙂.")
    pieces, rest = streamed(BYTES, before, ids)

    assert pieces == ["", "é", "", "", "漢", "", "", "", "🙂", "."]
    assert rest == ""


def test_an_incomplete_character_is_returned_by_finish() -> None:
    ids = BYTES.encode("a🙂")[:-1]
    pieces, rest = streamed(BYTES, (), ids)

    assert "".join(pieces) == "a"
    assert rest == "\N{REPLACEMENT CHARACTER}"


def test_the_space_before_a_word_is_kept() -> None:
    tokenizer = metaspace_tokenizer()
    pieces, rest = streamed(tokenizer, [2], [3, 4, 5, 6])

    assert pieces == [" one", " two", "three", "."]
    assert rest == ""


def test_a_special_token_is_returned_within_a_reply_and_not_at_its_end() -> None:
    end = BYTES.convert_tokens_to_ids("<|im_end|>")
    a, b = BYTES.encode("ab")
    stream = TextStream(BYTES)
    pieces = [stream.add(token_id) for token_id in (a, end, b, end)]

    assert pieces == ["a", "", "<|im_end|>b", ""]
    assert stream.finish("a<|im_end|>b") == ""


def test_a_token_that_ends_replies_need_not_be_special() -> None:
    a, b = BYTES.encode("ab")
    stream = TextStream(BYTES, ends={b})

    assert [stream.add(a), stream.add(b)] == ["a", ""]


@given(st.lists(st.integers(0, 258), max_size=40), st.integers(0, 40))
def test_the_pieces_are_the_text_for_any_tokens(ids: list[int], cut: int) -> None:
    pieces, rest = streamed(BYTES, ids[:cut], ids[cut:])

    assert "".join(pieces) + rest == decode_after(BYTES, ids[:cut], ids[cut:])


def is_part(token: Any) -> bool:
    """Return whether a token may be one byte of a character."""
    if isinstance(token, bytes):
        return token >= b"\x80"
    # A byte-level tokenizer spells a byte of another character as one letter beyond ASCII.
    return token.startswith("<0x") or (len(token) == 1 and not token.isascii())


@pytest.mark.parametrize("name", MAKERS)
@settings(max_examples=10)
@given(data=st.data())
def test_the_pieces_and_the_rest_are_the_recorded_text(name: str, data: st.DataObject) -> None:
    tokenizer = text_tokenizer(name)
    names = {i: tokenizer.convert_ids_to_tokens(i) for i in range(len(tokenizer))}
    end = data.draw(st.sampled_from([i for i in names if not is_part(names[i])]))
    before = data.draw(ids_for(tokenizer, most=2))
    ids = [*data.draw(ids_for(tokenizer, most=8)), end]
    text, stop_text = decode_reply(tokenizer, before, ids, ended=True)
    stream = TextStream(tokenizer, before, ends={end})
    pieces = [stream.add(token_id) for token_id in ids]

    assert "".join(pieces) == stream.text
    assert text == decode_after(tokenizer, before, ids[:-1])
    assert text.startswith(stream.text)
    assert stream.text + stream.finish(text) == text
    if text + stop_text != decode_after(tokenizer, before, ids):
        assert "cleaned up" in name
        alone = tokenizer.decode([end]).lstrip().removeprefix("##")
        assert stop_text.lstrip().removeprefix("##") == alone


@given(st.text(max_size=30))
def test_the_pieces_of_a_text_are_the_text(said: str) -> None:
    ids = BYTES.encode(said)
    pieces, rest = streamed(BYTES, BYTES.encode("user: "), ids)

    assert "".join(pieces) + rest == said


@pytest.mark.demo_model
def test_the_pieces_of_the_demo_models_tokens_are_the_text(demo_lm: tt.LoadedModel) -> None:
    said = "Größe 漢字 🙂🙃  and\n\n  spaces , 'quotes' 1,250.5 naïve"
    tokenizer = demo_lm.tokenizer
    ids = tokenizer.encode(said)
    stream = TextStream(tokenizer, tokenizer.encode("Hello"))

    assert "".join(stream.add(token_id) for token_id in ids) == said
