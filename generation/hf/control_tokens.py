"""Escaping of control tokens in messages, so that they are encoded as plain text.

transformers wraps them in two private-use characters (markers) before the template renders the
messages, and encodes the wrapped text as plain text. All its private calls for that are here.
"""

from typing import Any, TypeVar

from transformers import PreTrainedTokenizerBase
from transformers.utils.chat_template_utils import (
    _CONTROL_TOKEN_END,
    _CONTROL_TOKEN_START,
    _get_control_token_patterns,
    encode_marked_chat,
    mark_control_tokens,
)

from tokentape.generation.errors import PromptError

Escapable = TypeVar("Escapable")
"""A string, or nested lists and mappings of strings, e.g. messages or tools."""

_WITHOUT_MARKERS = str.maketrans("", "", _CONTROL_TOKEN_START + _CONTROL_TOKEN_END)


def escape_control_tokens(tokenizer: PreTrainedTokenizerBase, written: Escapable) -> Escapable:
    """Return a copy in which the tokenizer's control tokens are wrapped in markers; see `encode`.

    Markers in the input are removed, so that they cannot be forged. Raise PromptError for an
    unpaired surrogate, which no tokenizer can encode.
    """
    _check_no_surrogates(written)
    template = tokenizer.chat_template or ""
    templates = template.values() if isinstance(template, dict) else [template]
    tokens = dict.fromkeys(
        token for each in templates for token in tokenizer._get_control_tokens(each)
    )
    pattern, _ = _get_control_token_patterns(tuple(tokens))
    escaped: Escapable = mark_control_tokens(written, pattern)
    return escaped


def encode(
    tokenizer: PreTrainedTokenizerBase, escaped_text: str, *, add_special_tokens: bool = False
) -> tuple[int, ...]:
    """Return the ids of a text, in which only control tokens without markers become such.

    `add_special_tokens` adds the tokens that the tokenizer adds at the start and end of a text.
    Raise PromptError if the tokenizer encodes a wrapped control token as a control token.
    """
    if unescape(escaped_text) == escaped_text:
        return tuple(tokenizer.encode(escaped_text, add_special_tokens=add_special_tokens))
    try:
        ids = tuple(encode_marked_chat(tokenizer, escaped_text))
    except ValueError as error:
        raise PromptError(
            f"a message contains a control token that cannot be encoded as text: {error}"
        ) from None
    if not add_special_tokens:
        return ids
    before, after = _special_ids(tokenizer)
    return (*before, *ids, *after)


def unescape(escaped_text: str) -> str:
    """Return the text without markers."""
    return escaped_text.translate(_WITHOUT_MARKERS)


def _special_ids(tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[int]]:
    """Return the ids that the tokenizer adds before and after a text."""
    bare = tokenizer.encode("a", add_special_tokens=False)
    full = tokenizer.encode("a")
    start = next(i for i in range(len(full)) if full[i : i + len(bare)] == bare)
    return full[:start], full[start + len(bare) :]


def _check_no_surrogates(written: Any) -> None:
    if isinstance(written, str):
        try:
            written.encode()
        except UnicodeEncodeError as error:
            raise PromptError(
                f"a message contains an unpaired surrogate at character {error.start}, "
                f"{written[error.start]!r}, which cannot be encoded: remove it"
            ) from None
    elif isinstance(written, dict):
        _check_no_surrogates(list(written.values()))
    elif isinstance(written, list | tuple):
        for each in written:
            _check_no_surrogates(each)
