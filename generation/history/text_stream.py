"""Decoding of a reply token by token, for display."""

from collections.abc import Container, Sequence

from transformers import PreTrainedTokenizerBase

from tokentape.generation.cache import common_prefix_length
from tokentape.generation.history.decoding import CONTEXT_TOKENS

_INCOMPLETE = "\N{REPLACEMENT CHARACTER}"


class TextStream:
    """Decodes a reply token by token, with a few tokens of context, in constant time per token.

    Incomplete characters are held back until their last byte, and tokens that may end the reply
    (special tokens and `ends`) until the next token. The pieces returned by `add` and the result of
    `finish` are the complete text.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        before: Sequence[int] = (),
        *,
        ends: Container[int] = (),
    ) -> None:
        """Start after the ids of the prompt; its last few ids are sufficient."""
        self.text = ""
        self._tokenizer = tokenizer
        self._special = frozenset(tokenizer.all_special_ids)
        self._ends = ends
        self._context = list(before[-CONTEXT_TOKENS:])
        self._pending: list[int] = []

    def add(self, token_id: int) -> str:
        """Append a token and return the text that is now final, which may be empty."""
        self._pending.append(token_id)
        if token_id in self._special or token_id in self._ends:
            return ""
        context, extended = (
            self._decode(self._context),
            self._decode([*self._context, *self._pending]),
        )
        if extended.endswith(_INCOMPLETE):
            return ""
        piece = extended[common_prefix_length(context, extended) :]
        self._context = [*self._context, *self._pending][-CONTEXT_TOKENS:]
        self._pending = []
        self.text += piece
        return piece

    def finish(self, text: str) -> str:
        """Return the rest of the reply, given its complete text.

        Return a newline and the complete text if the pieces are not a prefix of it, as with
        tokenizers that decode tokens differently once more tokens follow.
        """
        if text.startswith(self.text):
            return text[len(self.text) :]
        return f"\n{text}"

    def _decode(self, ids: Sequence[int]) -> str:
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=False))
