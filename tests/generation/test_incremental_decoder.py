"""A reply that is decoded token by token has the text of the reply that is decoded at once."""

import random
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import tokentape as tt
from benchmarks.prompts import licence
from tests.generation.text_tokenizers import MAKERS, byte_fallback, ids_for, text_tokenizer
from tokentape.generation.history.decoding import decode_after
from tokentape.generation.history.incremental_decoder import IncrementalDecoder, decode_each
from tokentape.store import DatabaseStore

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


@pytest.mark.parametrize("name", MAKERS)
@settings(max_examples=20)
@given(data=st.data())
def test_the_text_after_each_token_is_that_of_all_ids_decoded_at_once(
    name: str, data: st.DataObject
) -> None:
    tokenizer = text_tokenizer(name)
    before = data.draw(ids_for(tokenizer, most=3))
    ids = data.draw(ids_for(tokenizer, least=1, most=9))
    taken_after = data.draw(st.sets(st.integers(1, len(ids))))
    decoder, taken = IncrementalDecoder(tokenizer, before), ""
    for count, token_id in enumerate(ids, start=1):
        decoder.add(token_id)
        taken += decoder.take() if count in taken_after else ""

        assert decoder.text == decode_after(tokenizer, before, ids[:count])
    complete = decode_after(tokenizer, before, ids)

    assert taken + decoder.take_rest() == complete
    assert "".join(decode_each(tokenizer, before, ids)) == complete


@pytest.mark.parametrize("name", MAKERS)
@settings(max_examples=15)
@given(data=st.data())
def test_a_reply_without_a_prompt_is_decoded_as_its_tokenizer_does(
    name: str, data: st.DataObject
) -> None:
    tokenizer = text_tokenizer(name)
    ids = data.draw(ids_for(tokenizer, most=9))

    assert decode_after(tokenizer, (), ids) == tokenizer.decode(ids, skip_special_tokens=False)


@pytest.mark.parametrize("name", ["byte-level", "byte fallback", "byte fallback, not stripped"])
@given(prompt=st.text(max_size=8), reply=st.text(min_size=1, max_size=12))
def test_prompts_and_replies_of_any_script_have_their_texts(
    name: str, prompt: str, reply: str
) -> None:
    tokenizer = text_tokenizer(name)
    prompt_ids = tokenizer.encode(prompt, add_special_tokens=False)
    without_space = 0 if name == "byte-level" else 1
    ids = tokenizer.encode(reply, add_special_tokens=False)[without_space:]
    if name == "byte-level" or prompt_ids:
        assert decode_after(tokenizer, prompt_ids, ids) == reply.replace("▁", " ")


def test_wrong_bytes_of_a_reply_leave_the_prompt_as_it_is() -> None:
    tokenizer = byte_fallback()
    prompt = tokenizer.encode("ሰላም")
    wrong = tokenizer.convert_tokens_to_ids(["<0xE1>", "<0xFF>", "a"])

    assert decode_after(tokenizer, prompt, wrong) == f"{REPLACEMENT * 2}a"


def test_a_character_that_the_prompt_begins_belongs_to_the_reply() -> None:
    tokenizer = byte_fallback()
    ids = tokenizer.encode("ሰላም")
    cut = len(ids) - 1

    assert decode_after(tokenizer, ids[:cut], ids[cut:]) == "ም"
    assert "".join(decode_each(tokenizer, ids[:cut], ids[cut:])) == "ም"


class CountedDecoding:
    """A tokenizer that counts the ids that it decodes."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self.decoded = 0

    def decode(self, ids: list[int], **options: Any) -> str:
        self.decoded += len(ids)
        return str(self._tokenizer.decode(ids, **options))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)

    def __len__(self) -> int:
        return len(self._tokenizer)


def costs_of(tokenizer: Any, ids: list[int]) -> list[int]:
    """Return how many ids are decoded for each of the ids, shown as they come."""
    counted: Any = CountedDecoding(tokenizer)
    decoder = IncrementalDecoder(counted)
    costs = []
    for token_id in ids:
        before = counted.decoded
        decoder.add(token_id)
        decoder.take()
        costs.append(counted.decoded - before)
    return costs


@pytest.mark.parametrize("name", MAKERS)
def test_a_token_costs_as_much_at_the_end_of_a_long_reply_as_at_its_beginning(name: str) -> None:
    costs = costs_of(text_tokenizer(name), long_reply(text_tokenizer(name), 1_500))

    assert max(sum(costs[start : start + 100]) for start in range(0, 1_500, 100)) < 100 * 100
    assert sum(costs[-500:]) < 1.5 * sum(costs[500:1000])


@pytest.mark.parametrize("name", MAKERS)
def test_a_token_that_is_repeated_costs_no_more_each_time(name: str) -> None:
    tokenizer = text_tokenizer(name)
    for token_id in random.Random(7).sample(range(len(tokenizer)), min(12, len(tokenizer))):
        costs = costs_of(tokenizer, [token_id] * 300)

        assert max(costs) < 200
        assert sum(costs[200:]) < 1.5 * sum(costs[100:200]) + 100


@pytest.mark.parametrize("text", ["ሰላም", "🙂", REPLACEMENT, "é漢"])
@pytest.mark.parametrize("name", ["byte-level", "byte fallback"])
def test_a_long_run_of_characters_costs_no_more_at_its_end(name: str, text: str) -> None:
    tokenizer = text_tokenizer(name)
    costs = costs_of(tokenizer, tokenizer.encode(text * 500, add_special_tokens=False))

    assert max(costs) < 250
    assert sum(costs[-200:]) < 1.5 * sum(costs[100:300]) + 100


def long_reply(tokenizer: Any, tokens: int) -> list[int]:
    """Ids of a text, or any ids where the tokenizer reads none."""
    ids = list(tokenizer.encode(licence())[:tokens])
    if len(ids) == tokens and len(set(ids)) > 10:
        return ids
    return random.Random(7).choices(range(1, len(tokenizer)), k=tokens)


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
