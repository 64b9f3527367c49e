"""A reply that is decoded token by token has the text of the reply that is decoded at once."""

import random
from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

import tokentape as tt
from benchmarks.prompts import licence
from benchmarks.tiny_models import byte_tokenizer
from tokentape.generation.history.decoding import decode_after
from tokentape.generation.history.incremental_decoder import IncrementalDecoder
from tokentape.store import DatabaseStore


def word_tokenizer(
    words: Sequence[str], decoder: Any, *, cleans_up: bool = False
) -> PreTrainedTokenizerFast:
    vocabulary = {word: index for index, word in enumerate(dict.fromkeys(["<unk>", *words]))}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.decoder = decoder
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=backend, unk_token="<unk>", clean_up_tokenization_spaces=cleans_up
    )


def byte_fallback() -> PreTrainedTokenizerFast:
    """Decodes as Llama 2: words with a mark for the space, and bytes for what is no word."""
    characters = [f"<0x{byte:02X}>" for byte in "é漢🙂".encode()]
    decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(content=" ", left=1),
        ]
    )
    return word_tokenizer([*characters, "<0xFF>", "▁", "▁one", "two", ".", "▁▁"], decoder)


def word_pieces() -> PreTrainedTokenizerFast:
    """Decodes as BERT, with the spaces before punctuation removed."""
    words = [".", ",", "'", "n", "t", "##t", "n't", "'s", "'ve", "m", "v", "##e", "word", "漢", ""]
    return word_tokenizer(words, decoders.WordPiece(cleanup=False), cleans_up=True)


TOKENIZERS: dict[str, Callable[[], PreTrainedTokenizerFast]] = {
    "bytes": byte_tokenizer,
    "byte fallback": byte_fallback,
    "metaspace": lambda: word_tokenizer(["▁one", "▁", "two", "."], decoders.Metaspace()),
    "word pieces, cleaned up": word_pieces,
    "ends of words": lambda: word_tokenizer(
        ["on", "e</w>", "two</w>", "</w>"], decoders.BPEDecoder(suffix="</w>")
    ),
}


def pieces_of(
    tokenizer: PreTrainedTokenizerFast, *, least: int = 0, most: int
) -> st.SearchStrategy[list[int]]:
    """Any ids, and whole characters of several tokens: a run of these is often all valid."""
    names = [f"<0x{byte:02X}>" for byte in "é漢🙂".encode()]
    ids: list[int] = tokenizer.convert_tokens_to_ids(names)
    if tokenizer.unk_token_id in ids or None in ids:
        ids = tokenizer.encode("é漢🙂", add_special_tokens=False)
    characters = [ids[:2], ids[2:5], ids[5:]] if len(ids) == 9 else [ids]
    known = st.integers(0, len(tokenizer) - 1)
    piece = st.one_of(known.map(lambda each: [each]), *map(st.just, characters * 2))
    pieces = st.lists(piece, min_size=least, max_size=most)
    return pieces.map(lambda each: list(chain.from_iterable(each)))


@pytest.mark.parametrize("name", TOKENIZERS)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_the_text_after_each_token_is_that_of_all_ids_decoded_at_once(
    name: str, data: st.DataObject
) -> None:
    tokenizer = TOKENIZERS[name]()
    before = data.draw(pieces_of(tokenizer, most=6))
    ids = data.draw(pieces_of(tokenizer, least=20, most=60))
    decoder = IncrementalDecoder(tokenizer, before)
    for count, token_id in enumerate(ids, start=1):
        decoder.add(token_id)

        assert decoder.text == decode_after(tokenizer, before, ids[:count])


class CountedDecoding:
    """A tokenizer that counts the ids that it decodes."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self._tokenizer = tokenizer
        self.decoded = 0

    def decode(self, ids: list[int], **options: Any) -> str:
        self.decoded += len(ids)
        return str(self._tokenizer.decode(ids, **options))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)


@pytest.mark.parametrize("name", TOKENIZERS)
def test_a_token_costs_as_much_at_the_end_of_a_long_reply_as_at_its_beginning(name: str) -> None:
    tokenizer = TOKENIZERS[name]()
    counted: Any = CountedDecoding(tokenizer)
    decoder = IncrementalDecoder(counted)
    costs = []
    for token_id in long_reply(tokenizer, 3_000):
        before = counted.decoded
        decoder.add(token_id)
        costs.append(counted.decoded - before)

    assert max(sum(costs[start : start + 100]) for start in range(0, 3_000, 100)) < 100 * 100
    assert sum(costs[-500:]) < 1.5 * sum(costs[500:1000])


def long_reply(tokenizer: PreTrainedTokenizerFast, tokens: int) -> list[int]:
    """Ids of a text, or any ids where the tokenizer reads none; few bytes are wrong."""
    ids = list(tokenizer.encode(licence())[:tokens])
    if len(set(ids)) > 10:
        return ids
    wrong = tokenizer.convert_tokens_to_ids("<0xFF>")
    choices = [each for each in range(1, len(tokenizer)) if each != wrong]
    return random.Random(7).choices(choices, k=tokens)


def test_a_reply_that_may_call_tools_decodes_no_more_for_its_later_tokens(
    lm: tt.LoadedModel, store: DatabaseStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer: Any = type(lm.tokenizer)
    decode = tokenizer.decode
    decoded = [0]

    def count(self: Any, ids: Any, **options: Any) -> Any:
        decoded[0] += len(ids)
        return decode(self, ids, **options)

    def note(token_id: int, logits: torch.Tensor) -> None:
        costs.append(decoded[0])

    costs: list[int] = []
    monkeypatch.setattr(tokenizer, "decode", count)
    tools = tt.default_tools(lm)
    with tt.Investigation(lm, store=store, name="n", system_prompt="Hi.", tools=tools) as run:
        run.chat("Go on.", min_new_tokens=300, max_new_tokens=300, callback=note)

    assert len(costs) == 300
    assert costs[299] - costs[199] < 1.5 * (costs[199] - costs[99]) < 100 * 100
