"""Escaping of control tokens in messages, so that they are encoded as plain text.

They are wrapped in two private-use characters (markers) before the template renders the messages,
and the wrapped text is encoded as plain text. Recent releases of transformers do the same with
`apply_chat_template(sanitize_control_tokens=True)`; the ids are equal
(`tests/generation/test_control_tokens.py`).
"""

import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Any, TypeVar

from jinja2 import Environment, TemplateError
from transformers import PreTrainedTokenizerBase

from tokentape.generation.errors import PromptError

Escapable = TypeVar("Escapable")
"""A string, or nested lists and mappings of strings, e.g. messages or tools."""

_START, _END = "\U000f0000", "\U000f0001"
_WITHOUT_MARKERS = str.maketrans("", "", _START + _END)


def escape_control_tokens(tokenizer: PreTrainedTokenizerBase, written: Escapable) -> Escapable:
    """Return a copy in which the tokenizer's control tokens are wrapped in markers; see `encode`.

    Markers in the input are removed, so that they cannot be forged. Raise PromptError for an
    unpaired surrogate, which no tokenizer can encode.
    """
    _check_no_surrogates(written)
    template = tokenizer.chat_template or ""
    templates = template.values() if isinstance(template, dict) else [template]
    tokens = dict.fromkeys(
        token for each in templates for token in _control_tokens(tokenizer, each)
    )
    escaped: Escapable = _wrap(written, re.compile(_any_of(tuple(tokens))))
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
    ids = tuple(_encode_escaped(tokenizer, escaped_text))
    if not add_special_tokens:
        return ids
    before, after = _special_ids(tokenizer)
    return (*before, *ids, *after)


def unescape(escaped_text: str) -> str:
    """Return the text without markers."""
    return escaped_text.translate(_WITHOUT_MARKERS)


def _control_tokens(tokenizer: PreTrainedTokenizerBase, template: str) -> Iterator[str]:
    """Yield the special tokens, and the added tokens that structure a conversation.

    The latter are those of the tokenizer's `chat_control_tokens`, or else those in the template's
    text. Whitespace, such as Gemma's token of a line break, is ordinary text there.
    """
    chosen = getattr(tokenizer, "chat_control_tokens", None)
    text = _literal_text(template) if chosen is None else ""
    for token in tokenizer.added_tokens_decoder.values():
        word = token.content
        named = word in chosen if chosen is not None else word in text and not word.isspace()
        if token.special or named:
            yield word


@lru_cache(maxsize=64)
def _literal_text(template: str) -> str:
    """Return the text and the string literals of a template, separated by null characters."""
    try:
        tokens = list(Environment(trim_blocks=True, lstrip_blocks=True).lexer.tokenize(template))
    except TemplateError:
        # Rendering raises the error of the template. All of the template counts as text here.
        return template
    return "\0".join(str(each.value) for each in tokens if each.type in ("data", "string"))


@lru_cache(maxsize=64)
def _any_of(tokens: tuple[str, ...]) -> str:
    """Return a pattern of any of the tokens. Longer ones are first: a token may contain another."""
    return "|".join(map(re.escape, sorted(tokens, key=len, reverse=True))) or "(?!)"


def _wrap(written: Any, pattern: re.Pattern[str]) -> Any:
    if isinstance(written, str):
        return pattern.sub(f"{_START}\\g<0>{_END}", unescape(written))
    if isinstance(written, dict):
        return {key: _wrap(value, pattern) for key, value in written.items()}
    if isinstance(written, list | tuple):
        return [_wrap(value, pattern) for value in written]
    return written


def _encode_escaped(tokenizer: PreTrainedTokenizerBase, text: str) -> Iterator[int]:
    """Yield the ids of a text with markers.

    A template may separate the two markers of a token, e.g. by `split()`. Such a marker is removed,
    but text before and after it is still encoded separately, so that no control token arises.
    """
    tokens = _any_of(tuple(tokenizer.added_tokens_encoder))
    pieces = re.split(f"{_START}({tokens}){_END}|[{_START}{_END}]", text)
    line_break = tokenizer.encode("\n", add_special_tokens=False)
    yield from tokenizer.encode(pieces[0], add_special_tokens=False)
    for number, piece in enumerate(pieces[1:], start=1):
        if not piece:
            continue
        is_wrapped = number % 2 == 1
        ids = _ids_within_text(tokenizer, piece, line_break, plainly=is_wrapped)
        if is_wrapped and tokenizer.convert_tokens_to_ids(piece) in ids:
            raise PromptError(
                f"a message contains the control token {piece!r}, which cannot be encoded as text "
                "with this tokenizer: remove it"
            )
        yield from ids


def _ids_within_text(
    tokenizer: PreTrainedTokenizerBase, piece: str, line_break: list[int], *, plainly: bool
) -> list[int]:
    """Return the ids of a piece that is not the start of a text.

    SentencePiece adds a space at the start of a text, so a line break is encoded before the piece.
    `plainly` recognises no added token in it.
    """

    def ids_of(text: str) -> list[int]:
        if plainly:
            return _encode_plainly(tokenizer, text)
        return list(tokenizer.encode(text, add_special_tokens=False))

    ids = ids_of("\n" + piece)
    if ids[: len(line_break)] == line_break:
        return ids[len(line_break) :]
    return ids_of(piece)


def _encode_plainly(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Encode a text without recognising any added token in it."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return list(tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True))
    # `split_special_tokens` keeps added tokens that are not special.
    if backend.normalizer is not None:
        text = backend.normalizer.normalize_str(text)
    splits = [text]
    if backend.pre_tokenizer is not None:
        splits = [split for split, _ in backend.pre_tokenizer.pre_tokenize_str(text)]
    return [token.id for split in splits for token in backend.model.tokenize(split)]


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
