"""The text of a growing reply, decoded at a constant cost per token."""

from collections.abc import Callable, Sequence

from transformers import PreTrainedTokenizerBase

from tokentape.generation.cache import common_prefix_length
from tokentape.generation.history.byte_tokens import ByteRun
from tokentape.generation.history.decoding import CONTEXT_TOKENS, REPLACEMENT, Context, Decoding
from tokentape.generation.history.ordinary_token import ordinary_token

# Tokens that are decoded again with each new one, before some of them are committed.
_WINDOW_TOKENS = 24
# The text of earlier tokens is final: a character has four bytes at most, and a tokenizer may write
# a token in another way if one follows.
_TAIL_TOKENS = 8
# An incomplete character has three bytes at most, decoded to as many replacement characters.
_INCOMPLETE_CHARS = 3
# `clean_up_tokenization` replaces patterns of up to four characters one after another.
_CLEANED_CHARS = 8
_CLEANED_WINDOW_CHARS = 64


class IncrementalDecoder:
    """The equivalent of `decode_after` for all ids so far, which decodes only the newest ones.

    `take` returns the text as far as it is final: an incomplete character, a run of byte-fallback
    tokens that may still turn out wrong, and a space that may be cleaned up are held back.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, before: Sequence[int] = ()) -> None:
        """Start after the ids of the prompt; its last few ids are sufficient."""
        decoding = Decoding(tokenizer)
        self._raw = _RawText(decoding, decoding.context_after(before))
        self._prompt_text = decoding.cleaned(self._raw.text)
        self._cleaned = None if decoding.clean_up is None else _CleanedText(decoding.clean_up)
        self._taken = 0

    def add(self, token_id: int) -> None:
        """Append a token."""
        self._raw.add(token_id)
        if self._cleaned is not None:
            self._cleaned.extend(self._raw.take_settled())

    @property
    def text(self) -> str:
        """The text of all tokens after the prompt."""
        if self._cleaned is None:
            return self._after_prompt(self._raw.text)
        return self._after_prompt(self._cleaned.text(self._raw.text))

    def take(self) -> str:
        """Return the text that became final since the last call."""
        if self._cleaned is None:
            final = self._raw.final_text()
        else:
            final = self._cleaned.text(self._raw.final_text())[:-_CLEANED_CHARS]
        piece = self._after_prompt(final)[self._taken :]
        self._taken += len(piece)
        return piece

    def take_rest(self) -> str:
        """Return the rest of the text; no token follows."""
        rest = self.text[self._taken :]
        self._taken += len(rest)
        return rest

    def _after_prompt(self, text: str) -> str:
        return text[common_prefix_length(self._prompt_text, text[: len(self._prompt_text)]) :]


def decode_each(
    tokenizer: PreTrainedTokenizerBase, before: Sequence[int], ids: Sequence[int]
) -> list[str]:
    """Return the text that becomes final with each id; together they are `decode_after`."""
    decoder = IncrementalDecoder(tokenizer, before)
    pieces = []
    for token_id in ids:
        decoder.add(token_id)
        pieces.append(decoder.take())
    if pieces:
        pieces[-1] += decoder.take_rest()
    return pieces


class _RawText:
    """The text before spaces are cleaned up, of the context and of all tokens added to it.

    Text is settled at a position between two tokens where decoding both sides apart gives the same
    as decoding them together. A window of tokens after that position is decoded with each new
    token. A run of byte-fallback tokens is decoded here, byte by byte, because it has no such
    position; the tokens before and after it do not depend on it.
    """

    def __init__(self, decoding: Decoding, context: Context) -> None:
        self._decoding = decoding
        self._byte_tokens = decoding.byte_tokens
        probe = ordinary_token(decoding.tokenizer)
        self._probe = [] if probe is None else [probe]
        self._settled = ""
        self._run: ByteRun | None = None
        self._context: list[int] = []
        self._context_text = ""
        self._window = list(context.ids)
        self._window_text = context.text
        self._try_at = _WINDOW_TOKENS
        if context.first_bytes is not None:
            self._settle(context.text, context.ids, [])
            self._run = ByteRun(context.first_bytes)

    def add(self, token_id: int) -> None:
        byte = None if self._byte_tokens is None else self._byte_tokens.byte_of.get(token_id)
        if byte is not None:
            self._add_byte(byte)
            return
        self._end_run()
        self._window.append(token_id)
        self._window_text = self._after_context(self._window)
        if len(self._window) >= self._try_at:
            self._settle_first_part()

    @property
    def text(self) -> str:
        """The text since `take_settled`, if no token follows."""
        return self._settled + (self._window_text if self._run is None else self._run.text)

    def final_text(self) -> str:
        """Return the part of `text` that no later token can change."""
        if self._run is not None:
            return self._settled + self._run.final_text
        followed = self._after_context([*self._window, *self._probe])
        final = followed[: common_prefix_length(self._window_text, followed)]
        complete = len(final.rstrip(REPLACEMENT))
        return self._settled + final[: max(complete, len(final) - _INCOMPLETE_CHARS)]

    def take_settled(self) -> str:
        """Remove the settled text, and return it."""
        settled, self._settled = self._settled, ""
        return settled

    def _add_byte(self, byte: int) -> None:
        assert self._byte_tokens is not None
        if self._run is None:
            anchor, anchor_text = self._byte_tokens.anchor, self._byte_tokens.anchor_text
            followed = self._after_context([*self._window, *anchor])
            self._settle(followed[: len(followed) - len(anchor_text)], anchor, [])
            self._run = ByteRun()
        self._run.add(byte)

    def _end_run(self) -> None:
        if self._run is None or self._byte_tokens is None:
            return
        text, self._run = self._run.text, None
        self._settle(text, self._byte_tokens.anchor, [])

    def _settle(self, text: str, context: Sequence[int], window: Sequence[int]) -> None:
        """Settle a text; the ids of the window follow it in this context."""
        self._settled += text
        self._context, self._context_text = list(context), self._decoding.raw(context)
        self._window = list(window)
        self._window_text = self._after_context(window) if window else ""
        self._try_at = _WINDOW_TOKENS

    def _settle_first_part(self) -> None:
        """Settle the part of the window that is final; without one, try again later."""
        last = len(self._window) - _TAIL_TOKENS
        for position in range(last, last - _TAIL_TOKENS, -1):
            if self._settle_before(position):
                return
        self._try_at = len(self._window) + _TAIL_TOKENS

    def _settle_before(self, position: int) -> bool:
        """Settle the window's tokens before the position, if decoding can be split there."""
        left, right = self._window[:position], self._window[position:]
        left_text = self._after_context(left)
        if not self._window_text.startswith(left_text):
            return False
        context = [*self._context, *left][-CONTEXT_TOKENS:]
        context_text = self._decoding.raw(context)
        # The split must also be right if another token follows.
        followed = self._after_context([*self._window, *self._probe])
        for following, text in (([], self._window_text), (self._probe, followed)):
            extended = self._decoding.raw([*context, *right, *following])
            if not extended.startswith(context_text):
                return False
            if left_text + extended[len(context_text) :] != text:
                return False
        self._settle(left_text, context, right)
        return True

    def _after_context(self, ids: Sequence[int]) -> str:
        return self._decoding.raw([*self._context, *ids])[len(self._context_text) :]


class _CleanedText:
    """A text with its spaces cleaned up. Only its newest part is cleaned again."""

    def __init__(self, clean_up: Callable[[str], str]) -> None:
        self._clean_up = clean_up
        self._settled = ""
        self._window = ""

    def extend(self, raw: str) -> None:
        """Append raw text."""
        self._window += raw
        if len(self._window) < _CLEANED_WINDOW_CHARS:
            return
        cleaned = self._clean_up(self._window)
        last = len(self._window) - 2 * _CLEANED_CHARS
        for position in range(last, max(0, last - _CLEANED_WINDOW_CHARS), -1):
            left = self._clean_up(self._window[:position])
            if left + self._clean_up(self._window[position:]) == cleaned:
                self._settled += left
                self._window = self._window[position:]
                return

    def text(self, raw: str) -> str:
        """Return the cleaned text of all raw text so far, followed by `raw`."""
        return self._settled + str(self._clean_up(self._window + raw))
