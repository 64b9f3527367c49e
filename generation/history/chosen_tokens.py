"""Tokens of a reply that the experimenter chooses, given as text or as ids."""

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from tokentape.generation.checks import check_text
from tokentape.generation.errors import PromptError
from tokentape.generation.hf.control_tokens import encode
from tokentape.generation.history.decoding import REPLACEMENT, decode_after
from tokentape.recorder.plain_values import plain_whole

# Context before a text that is encoded, long enough that its first token comes out the same.
_CONTEXT_CHARS = 80
_PIECES_SHOWN = 12


def encode_reply_prefix(
    tokenizer: PreTrainedTokenizerBase, prompt_text: str, prefix: str
) -> tuple[int, ...]:
    """Return the ids of a text that begins a reply; control tokens in it are tokens.

    No token of it joins with the end of the prompt. Raise PromptError for text that cannot be
    encoded.
    """
    if not isinstance(prefix, str):
        raise PromptError(f"reply_prefix must be a text, not a {type(prefix).__name__}")
    check_text("reply_prefix", prefix)
    if not prefix:
        return ()
    ids = _encode_after(tokenizer, prompt_text, prefix)
    if not ids:
        raise PromptError(f"the tokenizer has no token for reply_prefix {prefix!r}")
    return ids


def chosen_token(
    tokenizer: PreTrainedTokenizerBase, before_text: str, token: str | int, vocabulary: int
) -> int:
    """Return the id of a token that is given by its id, by its text, or by its name.

    Raise PromptError if it is not exactly one token of the tokenizer, and list its pieces.
    """
    if not isinstance(token, str):
        token_id = plain_whole(token)
        if isinstance(token_id, bool) or not isinstance(token_id, int):
            raise PromptError(f"token must be a text or an id, not {token!r}")
        if not 0 <= token_id < vocabulary:
            raise PromptError(f"token {token_id} is not one of the model's {vocabulary} tokens")
        return token_id
    check_text("token", token)
    ids = _encode_after(tokenizer, before_text, token) if token else ()
    if len(ids) == 1:
        return ids[0]
    alone = encode(tokenizer, token) if token else ()
    if len(alone) == 1:
        return int(alone[0])
    named = tokenizer.get_vocab().get(token)
    if named is not None:
        return int(named)
    pieces = [f"{decode_after(tokenizer, (), [each])!r} ({each})" for each in ids[:_PIECES_SHOWN]]
    more = ", …" if len(ids) > _PIECES_SHOWN else ""
    raise PromptError(
        f"token {token!r} is {len(ids)} tokens, not one: {', '.join(pieces) or 'none'}{more}; "
        "give one of them, or an id"
    )


def complete_text(
    tokenizer: PreTrainedTokenizerBase, before: Sequence[int], ids: Sequence[int]
) -> str:
    """Return the text of `ids` after `before`, without a character that later ids may complete."""
    text = decode_after(tokenizer, before, ids) if ids else ""
    # An incomplete character has three bytes at most.
    return text[: max(len(text.rstrip(REPLACEMENT)), len(text) - 3)]


def _encode_after(
    tokenizer: PreTrainedTokenizerBase, before_text: str, text: str
) -> tuple[int, ...]:
    """Return the ids of a text as they follow another one, or alone if a token spans both."""
    context = before_text[-_CONTEXT_CHARS:]
    before, both = encode(tokenizer, context), encode(tokenizer, context + text)
    if both[: len(before)] == before:
        return tuple(both[len(before) :])
    return tuple(encode(tokenizer, text))
