"""The text of a growing reply, decoded in constant time per token."""

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from tokentape.generation.cache import common_prefix_length
from tokentape.generation.history.decoding import CONTEXT_TOKENS

# Tokens that are decoded again with each new one, before some of them are committed.
_WINDOW_TOKENS = 24
# Later tokens can change the text of the last few tokens and characters only: a character has four
# bytes at most, `clean_up_tokenization_spaces` replaces patterns of up to four characters, and a
# tokenizer may write the last token otherwise than one before others.
_TAIL_TOKENS, _TAIL_CHARS = 8, 8


class IncrementalDecoder:
    """The equivalent of `decode_after` for all ids so far, which decodes only the newest ones.

    Text is committed at a position between two tokens where decoding both sides apart gives the
    same as decoding them together, and where no later token can change that. A window of tokens
    after that position is decoded with each new token. It grows beyond its usual length while there
    is no such position: inside a run of byte-fallback tokens, which decode to replacement
    characters all together if one byte is wrong, or a run of characters that are all invalid.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, before: Sequence[int] = ()) -> None:
        """Start after the ids of the prompt; its last few ids are sufficient."""
        self._tokenizer = tokenizer
        self._byte_ids = _byte_fallback_ids(tokenizer)
        context = list(before[-CONTEXT_TOKENS:])
        self._prompt_text = self._decode(context)
        self._committed = ""
        """The text of the prompt's last tokens and of the committed tokens."""
        self._context: list[int] = []
        self._context_text = ""
        self._window = context
        self._window_text = self._prompt_text
        self._try_at = _WINDOW_TOKENS

    def add(self, token_id: int) -> None:
        """Append a token."""
        self._window.append(token_id)
        self._window_text = self._after_context(self._context, self._context_text, self._window)
        if len(self._window) >= self._try_at:
            self._commit()

    @property
    def text(self) -> str:
        """The text of all tokens after the prompt."""
        text = self._committed + self._window_text
        return text[common_prefix_length(self._prompt_text, text[: len(self._prompt_text)]) :]

    def _commit(self) -> None:
        """Commit the part of the window that is final; if there is none, try again later."""
        last = len(self._window) - _TAIL_TOKENS
        for position in range(last, max(0, last - _TAIL_TOKENS), -1):
            if self._commit_before(position):
                self._try_at = _WINDOW_TOKENS
                return
        self._try_at = len(self._window) + _TAIL_TOKENS

    def _commit_before(self, position: int) -> bool:
        """Commit the window's tokens before the position, if decoding can be split there."""
        left, right = self._window[:position], self._window[position:]
        if self._byte_ids and not self._byte_ids.isdisjoint((left[-1], right[0])):
            return False
        left_text = self._after_context(self._context, self._context_text, left)
        rest = self._window_text[len(left_text) :]
        if not self._window_text.startswith(left_text) or len(rest) < _TAIL_CHARS:
            return False
        context = [*self._context, *left][-CONTEXT_TOKENS:]
        context_text = self._decode(context)
        extended = self._decode([*context, *right])
        if not extended.startswith(context_text) or extended[len(context_text) :] != rest:
            return False
        self._committed += left_text
        self._context, self._context_text = context, context_text
        self._window, self._window_text = right, rest
        return True

    def _after_context(self, context: Sequence[int], context_text: str, ids: Sequence[int]) -> str:
        return self._decode([*context, *ids])[len(context_text) :]

    def _decode(self, ids: Sequence[int]) -> str:
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=False))


def _byte_fallback_ids(tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Return the ids of the tokens that stand for single bytes, such as `<0x0A>`."""
    ids = (tokenizer.convert_tokens_to_ids(f"<0x{byte:02X}>") for byte in range(256))
    known = (each for each in ids if isinstance(each, int))
    return frozenset(known) - {tokenizer.unk_token_id}
