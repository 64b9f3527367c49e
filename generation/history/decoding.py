"""Decoding of ids in the context of the ids before them."""

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from tokentape.generation.cache import common_prefix_length

CONTEXT_TOKENS = 4
"""Length of the context. A character has at most four bytes, possibly in separate tokens."""


def decode_after(
    tokenizer: PreTrainedTokenizerBase, before: Sequence[int], ids: Sequence[int]
) -> str:
    """Return the text of `ids` in the context of the ids `before`; the last few are sufficient.

    Decoding without context would drop a leading space with some tokenizers. A character that
    begins in `before` and ends in `ids` is part of the result.
    """
    context_ids = list(before[-CONTEXT_TOKENS:])
    context = str(tokenizer.decode(context_ids, skip_special_tokens=False))
    extended = str(tokenizer.decode([*context_ids, *ids], skip_special_tokens=False))
    return extended[common_prefix_length(context, extended) :]
