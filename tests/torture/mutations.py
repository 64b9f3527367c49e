"""Hypothesis strategies that damage examples: bytes, texts and JSON values."""

import copy
from typing import Any

from hypothesis import strategies as st

TOKENS = (
    *(b"", b"\x00", b"\n", b"\r\n", b"\xff\xfe", b"\xef\xbb\xbf", b'"', b"'", b"\\", b"{", b"}"),
    *(b"null", b"true", b"-0.0", b"1e999", b"NaN", b"-Infinity", b"9" * 30, b"9" * 5000),
    *(b'"\\ud800"', b"\\u0000", "\u2028\U0001f600".encode(), b"\x1b]0;x\x07", b"\xed\xa0\x80"),
    *(b"[" * 3000, b'{"a":' * 3000, b"(" * 3000, b"<" * 200, b"&x *x", b"!!python/object:os.x"),
    *(b"9999-12-31T23:59:59.999999Z", b"0001-01-01T00:00:00.000000Z", b"1" * 17),
)
SCALARS: st.SearchStrategy[Any] = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from((0, -1, 2**31, 2**63 - 1, 2**63, -(2**63) - 1, 2**64, 10**400)),
    st.floats(),
    st.text(max_size=12),
    st.sampled_from(
        ("\x00", "\u2028", "\ud800", "\x1b[31m", "9" * 400, "1970-01-01", "blake2b-256:")
    ),
)
VALUES: st.SearchStrategy[Any] = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=8,
)


def damaged(data: st.DataObject, example: bytes, *, edits_max: int = 3) -> bytes:
    """Return an example with a few spans flipped, replaced, removed, repeated or moved."""
    content = bytearray(example)
    for _ in range(data.draw(st.integers(1, edits_max), label="edits")):
        start = data.draw(st.integers(0, len(content)), label="start")
        length = data.draw(st.sampled_from((0, 1, 1, 2, 5, 40, 1000)), label="length")
        end = min(len(content), start + length)
        how = data.draw(st.sampled_from(("flip", "token", "bytes", "remove", "repeat", "cut")))
        if how == "flip" and start < len(content):
            content[start] ^= 1 << data.draw(st.integers(0, 7), label="bit")
        elif how == "token":
            content[start:end] = data.draw(st.sampled_from(TOKENS), label="token")
        elif how == "bytes":
            content[start:end] = data.draw(st.binary(max_size=8), label="bytes")
        elif how == "remove":
            del content[start:end]
        elif how == "repeat":
            content[start:start] = content[start:end] * data.draw(st.integers(1, 5), label="times")
        elif how == "cut" and data.draw(st.integers(0, 9)) == 0:
            del content[start:]
    return bytes(content)


def damaged_text(data: st.DataObject, example: str, *, edits_max: int = 3) -> str:
    """Return a text damaged as bytes are; U+FFFD replaces what is no UTF-8 any more."""
    return damaged(data, example.encode(errors="surrogatepass"), edits_max=edits_max).decode(
        errors="replace"
    )


def changed_value(data: st.DataObject, example: Any) -> Any:
    """Return a JSON value in which one value, key or item was replaced, added or removed."""
    whole = {"": copy.deepcopy(example)}
    place: Any = whole
    key: Any = ""
    # Descends a random way, and stops with some chance at each level.
    while isinstance(place[key], dict | list) and place[key]:
        inner = place[key]
        if place is not whole and data.draw(st.integers(0, 3), label="stop") == 0:
            break
        keys = sorted(inner) if isinstance(inner, dict) else range(len(inner))
        place, key = inner, data.draw(st.sampled_from(list(keys)), label="key")
    how = data.draw(st.sampled_from(("replace", "remove", "add")), label="how")
    if how == "remove" and place is not whole:
        del place[key]
    elif how == "add" and isinstance(place, dict) and place is not whole:
        place[data.draw(st.text(max_size=6), label="name")] = data.draw(VALUES, label="value")
    else:
        place[key] = data.draw(VALUES, label="value")
    return whole[""]
