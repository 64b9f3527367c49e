"""Encoding and decoding of events."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokentape.recorder import Envelope, NewerRecordingError, RecordingError
from tokentape.recorder.codec import (
    decode,
    decode_body,
    dump_canonical,
    encode,
    encode_body,
)
from tokentape.recorder.events import (
    EVENT_CLASSES,
    Event,
    HistoryPruned,
    MessageAdded,
    TokenSampled,
)
from tokentape.recorder.seals import canonical_bytes

ids = st.lists(st.integers(0, 2**31 - 1), max_size=5).map(tuple)
text = st.text()
finite = st.floats(allow_nan=False, allow_infinity=False)
float32 = st.floats(allow_nan=False, allow_infinity=False, width=32)
half = st.floats(allow_nan=False, allow_infinity=False, width=16)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | finite | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=5,
)
messages = st.builds(
    MessageAdded, role=text, content=text, text=text, ids=ids, tool_call_id=st.none() | text
)
tokens = st.integers(0, 5).flatmap(
    lambda count: st.builds(
        TokenSampled,
        turn=st.integers(1, 100),
        step=st.integers(0, 10_000),
        position=st.integers(0, 10_000),
        token_id=st.integers(0, 200_000),
        logprob=float32,
        logprob_processed=float32,
        entropy=half,
        top_gap=half,
        duration_us=st.integers(0, 10**9),
        top_ids=st.lists(st.integers(0, 200_000), min_size=count, max_size=count).map(tuple),
        top_logprobs=st.lists(half, min_size=count, max_size=count).map(tuple),
    )
)
ranges = st.lists(st.integers(0, 50), max_size=8, unique=True).map(
    lambda cuts: tuple(zip(sorted(cuts)[::2], sorted(cuts)[1::2], strict=False))
)
prunings = st.builds(
    lambda removed, **others: HistoryPruned(
        removed_tokens=removed,
        tokens_before=60,
        tokens_after=60 - sum(end - start for start, end in removed),
        **others,
    ),
    ranges,
    turn=st.integers(1, 100),
    policy=st.sampled_from(["tool_results", "turns"]),
    reason=text,
    removed_chars=ranges,
    removed_messages=st.lists(st.integers(0, 99), min_size=1, max_size=3).map(tuple),
)
others = st.sampled_from([EVENT_CLASSES["ToolCalled"]]).flatmap(
    lambda cls: st.builds(
        cls, call_id=text, name=text, arguments=st.dictionaries(text, json_values, max_size=3)
    )
)


@given(messages | tokens | prunings | others)
def test_an_encoded_event_is_decoded_to_an_equal_event(event: Event) -> None:
    envelope = Envelope("run", 7, 5_000, event, 3, "blake2b-256:00")
    record = encode(envelope)
    again = decode("run", record)

    assert again == envelope
    assert encode(again) == record
    assert canonical_bytes(encode(again)) == canonical_bytes(record)


@given(tokens)
def test_a_token_can_be_encoded_as_json(event: TokenSampled) -> None:
    body = dump_canonical(encode(Envelope("run", 0, 0, event)).body)

    assert decode_body("TokenSampled", event.version, body) == event


@pytest.mark.parametrize(
    ("kind", "version"), [("TokenSampled", 99), ("SomethingThatDoesNotExistYet", 1)]
)
def test_an_unknown_kind_or_version_is_reported_as_newer(kind: str, version: int) -> None:
    with pytest.raises(NewerRecordingError, match="upgrade tokentape"):
        decode_body(kind, version, "{}")


@pytest.mark.parametrize(
    "body",
    ["", "[]", "{", "{}", '{"role": 1, "surprise": 2}', json.dumps({"ids": [-4]})],
)
def test_a_damaged_body_raises_recording_error(body: str) -> None:
    with pytest.raises(RecordingError, match="MessageAdded"):
        decode_body("MessageAdded", 1, body)


def test_a_number_that_json_lacks_is_refused_when_encoded() -> None:
    event: Any = EVENT_CLASSES["ToolCalled"](call_id="1", name="t", arguments={"x": float("nan")})

    with pytest.raises(ValueError, match="not JSON compliant"):
        encode_body(event)
