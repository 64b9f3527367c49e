"""Decoding of ids: as a tokenizer does it, and in the context of the ids before them."""

import codecs
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import takewhile

from transformers import PreTrainedTokenizerBase

from tokentape.generation.cache import common_prefix_length
from tokentape.generation.history.byte_tokens import ByteTokens, byte_tokens_of, run_text

CONTEXT_TOKENS = 4
"""Length of the context. A character has at most four bytes, possibly in separate tokens."""
REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """The context in which ids are decoded: the last ids before them, or ids in place of these."""

    ids: tuple[int, ...]
    text: str
    """The decoded ids."""
    first_bytes: bytes | None = None
    """After a byte-fallback token: the first bytes of a character that the next ids may complete,
    often none. The `ids` are then an anchor (see `ByteTokens`), which these bytes follow."""


class Decoding:
    """Decodes ids as `tokenizer.decode` does, with special tokens, in two steps.

    `raw` is the text before `clean_up`, which is None if the tokenizer does not clean up spaces.
    `cleans_up` overrides the tokenizer's setting.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, *, cleans_up: bool | None = None
    ) -> None:
        self.tokenizer = tokenizer
        self.byte_tokens: ByteTokens | None = byte_tokens_of(tokenizer)
        if cleans_up is None:
            cleans_up = _cleans_up(tokenizer)
        self.clean_up: Callable[[str], str] | None = (
            tokenizer.clean_up_tokenization if cleans_up else None
        )

    def raw(self, ids: Sequence[int]) -> str:
        """Return the text of ids before spaces are cleaned up."""
        return str(
            self.tokenizer.decode(
                list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False
            )
        )

    def cleaned(self, raw: str) -> str:
        """Return a raw text with its spaces cleaned up, if the tokenizer does that."""
        return raw if self.clean_up is None else str(self.clean_up(raw))

    def context_after(self, before: Sequence[int]) -> Context:
        """Return the context of ids that follow `before`; its last few ids are sufficient."""
        byte_tokens = self.byte_tokens
        last = list(before[-CONTEXT_TOKENS:])
        if byte_tokens is None or not last or last[-1] not in byte_tokens.byte_of:
            return Context(ids=tuple(last), text=self.raw(last))
        run = takewhile(lambda each: each is not None, map(byte_tokens.byte_of.get, reversed(last)))
        return Context(
            ids=byte_tokens.anchor,
            text=byte_tokens.anchor_text,
            first_bytes=_incomplete_character(
                bytes(each for each in run if each is not None)[::-1]
            ),
        )

    def after(self, before: Sequence[int], ids: Sequence[int]) -> str:
        """Return the text of `ids` in the context of the ids `before`. See `decode_after`."""
        context = self.context_after(before)
        if context.first_bytes is None or self.byte_tokens is None:
            before_text, text = context.text, self.raw([*context.ids, *ids])
        else:
            run, rest = self.byte_tokens.split_run(ids)
            before_text = context.text + run_text(context.first_bytes)
            # The anchor is not part of the run: a wrong byte of the reply does not change it.
            text = context.text + run_text(context.first_bytes + run)
            text += self.raw([*context.ids, *rest])[len(context.text) :]
        before_text, text = self.cleaned(before_text), self.cleaned(text)
        return text[common_prefix_length(before_text, text) :]


def decode_after(
    tokenizer: PreTrainedTokenizerBase, before: Sequence[int], ids: Sequence[int]
) -> str:
    """Return the text of `ids` in the context of the ids `before`; the last few are sufficient.

    Decoding without context would drop a leading space with some tokenizers. A character that
    begins in `before` and ends in `ids` is part of the result; complete characters of `before` are
    not, also if both are bytes of one byte-fallback run.
    """
    return Decoding(tokenizer).after(before, ids)


def decode_reply(
    tokenizer: PreTrainedTokenizerBase,
    prompt_ids: Sequence[int],
    token_ids: Sequence[int],
    *,
    ended: bool,
) -> tuple[str, str]:
    """Return the text of a reply, and the text of the end-of-sequence token if it `ended` so."""
    decoding = Decoding(tokenizer)
    if not ended:
        return decoding.after(prompt_ids, token_ids), ""
    text = decoding.after(prompt_ids, token_ids[:-1])
    with_stop = decoding.after(prompt_ids, token_ids)
    if with_stop.startswith(text):
        return text, with_stop[len(text) :]
    # The text ends otherwise if a token follows: spaces before its end are cleaned up.
    alone = Decoding(tokenizer, cleans_up=False)
    return text, alone.after([*prompt_ids, *token_ids[:-1]], token_ids[-1:])


def _incomplete_character(run: bytes) -> bytes:
    """Return the first bytes of a character at the end of a run; empty if the run ends with one."""
    for count in (3, 2, 1):
        last = run[-count:]
        try:
            text = codecs.getincrementaldecoder("utf-8")().decode(last)
        except UnicodeDecodeError:
            continue
        if len(last) == count and not text:
            return last
    return b""


def _cleans_up(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Return whether `tokenizer.decode` removes spaces, e.g. before punctuation."""
    if not getattr(tokenizer, "clean_up_tokenization_spaces", False):
        return False
    # Releases that have this setting ignore the other one for the backend's BPE models.
    for_bpe = "clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output"
    backend = getattr(tokenizer, "backend_tokenizer", None)
    is_bpe = backend is not None and type(backend.model).__name__ == "BPE"
    return not is_bpe or bool(getattr(tokenizer, for_bpe, True))
