"""Decoding of a reply token by token, for display."""

from collections.abc import Container, Sequence

from transformers import PreTrainedTokenizerBase

from tokentape.generation.history.incremental_decoder import IncrementalDecoder


class TextStream:
    """Decodes a reply token by token, in constant time per token.

    Text that a later token may change is held back (see `IncrementalDecoder`), and tokens that may
    end the reply (special tokens and `ends`) until the next token. The pieces returned by `add` and
    the result of `finish` are the complete text.
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
        self._decoder = IncrementalDecoder(tokenizer, before)
        self._special = frozenset(tokenizer.all_special_ids)
        self._ends = ends
        self._pending: list[int] = []

    def add(self, token_id: int) -> str:
        """Append a token and return the text that is now final, which may be empty."""
        self._pending.append(token_id)
        if token_id in self._special or token_id in self._ends:
            return ""
        for each in self._pending:
            self._decoder.add(each)
        self._pending = []
        piece = self._decoder.take()
        self.text += piece
        return piece

    def finish(self, text: str) -> str:
        """Return the rest of the reply, given its complete text.

        Return a newline and the complete text if the pieces are not a prefix of it: the text was
        decoded by another tokenizer or another release.
        """
        if text.startswith(self.text):
            return text[len(self.text) :]
        return f"\n{text}"
