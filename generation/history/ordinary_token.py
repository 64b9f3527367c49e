"""An ordinary token of a tokenizer, to see how it writes a token that another follows."""

from weakref import WeakKeyDictionary

from transformers import PreTrainedTokenizerBase

from tokentape.generation.history.byte_tokens import byte_tokens_of, id_of

_IDS_TRIED_MAX = 4096

_FOUND: WeakKeyDictionary[PreTrainedTokenizerBase, int | None] = WeakKeyDictionary()


def ordinary_token(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """Return the id of a token that ends with an ASCII letter or digit, or None without one."""
    if tokenizer not in _FOUND:
        _FOUND[tokenizer] = _find(tokenizer)
    return _FOUND[tokenizer]


def _find(tokenizer: PreTrainedTokenizerBase) -> int | None:
    excluded = set(tokenizer.all_special_ids)
    byte_tokens = byte_tokens_of(tokenizer)
    if byte_tokens is not None:
        excluded.update(byte_tokens.byte_of)
    common = id_of(tokenizer, "a")
    ids: list[int] = [] if common is None else [common]
    ids += range(min(len(tokenizer), _IDS_TRIED_MAX))
    for token_id in ids:
        if token_id in excluded:
            continue
        last = str(tokenizer.decode([token_id], skip_special_tokens=False))[-1:]
        if last.isascii() and last.isalnum():
            return token_id
    return None
