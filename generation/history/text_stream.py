"""The text of a reply as it grows, in pieces that do not change again."""

from collections.abc import Container, Sequence

from transformers import PreTrainedTokenizerBase

from tokentape.generation.cache import common_prefix_length

# A character has four bytes at most, each perhaps a token, and some tokenizers drop a space at the
# very beginning of what they decode.
_LEAD_TOKENS = 4
_INCOMPLETE = "\N{REPLACEMENT CHARACTER}"


class TextStream:
    """Decodes a token at a time, each behind the few before it, however long the reply gets.

    Held back until more is known are characters of which bytes are missing, and tokens that may
    end the reply: special ones, and `ends`. The pieces and what `finish` gives are the whole text.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        before: Sequence[int] = (),
        *,
        ends: Container[int] = (),
    ) -> None:
        """`before` are the ids of the prompt; the last few are enough."""
        self.text = ""
        self._tokenizer = tokenizer
        self._special = frozenset(tokenizer.all_special_ids)
        self._ends = ends
        self._lead = list(before[-_LEAD_TOKENS:])
        self._fresh: list[int] = []

    def add(self, token_id: int) -> str:
        """The text that is certain now, and was not before; often empty."""
        self._fresh.append(token_id)
        if token_id in self._special or token_id in self._ends:
            return ""
        led, both = self._decode(self._lead), self._decode([*self._lead, *self._fresh])
        if both.endswith(_INCOMPLETE):
            return ""
        piece = both[common_prefix_length(led, both) :]
        self._lead = [*self._lead, *self._fresh][-_LEAD_TOKENS:]
        self._fresh = []
        self.text += piece
        return piece

    def finish(self, text: str) -> str:
        """What is missing of the reply's whole text; all of it, on a line of its own, where a
        tokenizer spells tokens otherwise once others follow them."""
        if text.startswith(self.text):
            return text[len(self.text) :]
        return f"\n{text}"

    def _decode(self, ids: Sequence[int]) -> str:
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=False))
