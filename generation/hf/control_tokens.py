"""Control tokens that somebody wrote into a message stay text.

transformers wraps them in two private-use characters before the template renders them, and encodes
what is wrapped as plain text. All its private calls for that are here.
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

Markable = TypeVar("Markable")
"""A string, or messages, tools and such: lists and mappings with strings in them."""

_UNMARKED = str.maketrans("", "", _CONTROL_TOKEN_START + _CONTROL_TOKEN_END)


def mark(tokenizer: PreTrainedTokenizerBase, written: Markable) -> Markable:
    """The same with the tokenizer's control tokens wrapped in markers; see `encode`.

    Markers that are in it already are dropped: nobody can forge one. Raises PromptError for half a
    surrogate pair, which no tokenizer can read.
    """
    _refuse_surrogates(written)
    template = tokenizer.chat_template or ""
    templates = template.values() if isinstance(template, dict) else [template]
    tokens = dict.fromkeys(
        token for each in templates for token in tokenizer._get_control_tokens(each)
    )
    pattern, _ = _get_control_token_patterns(tuple(tokens))
    escaped: Markable = mark_control_tokens(written, pattern)
    return escaped


def encode(
    tokenizer: PreTrainedTokenizerBase, marked_text: str, *, add_special_tokens: bool = False
) -> tuple[int, ...]:
    """Ids of a text: what is marked as plain text, control tokens that are not as such.

    `add_special_tokens` puts around it what the tokenizer puts around a text that stands alone.
    Raises PromptError where the tokenizer makes a control token of plain text, too.
    """
    if plain(marked_text) == marked_text:
        return tuple(tokenizer.encode(marked_text, add_special_tokens=add_special_tokens))
    try:
        ids = tuple(encode_marked_chat(tokenizer, marked_text))
    except ValueError as error:
        raise PromptError(
            f"a message holds a control token that cannot stay text: {error}"
        ) from None
    if not add_special_tokens:
        return ids
    before, after = _special_ids(tokenizer)
    return (*before, *ids, *after)


def plain(marked_text: str) -> str:
    """The text without its markers."""
    return marked_text.translate(_UNMARKED)


def _special_ids(tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[int]]:
    """What the tokenizer puts before and behind a text that stands alone."""
    bare = tokenizer.encode("a", add_special_tokens=False)
    whole = tokenizer.encode("a")
    start = next(at for at in range(len(whole)) if whole[at : at + len(bare)] == bare)
    return whole[:start], whole[start + len(bare) :]


def _refuse_surrogates(written: Any) -> None:
    if isinstance(written, str):
        try:
            written.encode()
        except UnicodeEncodeError as error:
            raise PromptError(
                f"a message holds half a surrogate pair at character {error.start}, "
                f"{written[error.start]!r}: it is no text that can be encoded; remove it"
            ) from None
    elif isinstance(written, dict):
        _refuse_surrogates(list(written.values()))
    elif isinstance(written, list | tuple):
        for each in written:
            _refuse_surrogates(each)
