"""The log-probabilities of a reply's tokens as Inspect logs them."""

import copy
import threading
from collections.abc import Sequence

from inspect_ai.model import Logprob, Logprobs, TopLogprob
from transformers import PreTrainedTokenizerBase

from tokentape.generation.history.spelling import TokenSpeller, spell_tokens
from tokentape.recorder.events import TokenSampled


class TokenLogprobWriter:
    """Writes the tokens of replies with their log-probabilities; each id is spelled once.

    It has a tokenizer of its own: turns use that of the model in other threads.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = copy.deepcopy(tokenizer)
        self._speller = TokenSpeller(self.tokenizer)
        self._texts: dict[str, str] = {}
        self._bytes: dict[int, list[int] | None] = {}
        self._lock = threading.Lock()

    def write(self, tokens: Sequence[TokenSampled], pieces: Sequence[str], *, top: int) -> Logprobs:
        """Return the raw log-probabilities of the sampled tokens and of the `top` likeliest ones.

        The bytes of the sampled tokens together are those of the reply: those of a character of
        several tokens are with its last one.
        """
        likeliest = {found for each in tokens for found in each.top_ids[:top]}
        with self._lock:
            ids = likeliest | {each.token_id for each in tokens}
            new = sorted(each for each in ids if str(each) not in self._texts)
            self._texts.update(spell_tokens(self.tokenizer, new))
            self._bytes.update({each: self._utf8(each) for each in new})
        return Logprobs(
            content=[
                Logprob(
                    token=self._texts[str(each.token_id)],
                    logprob=each.logprob,
                    bytes=list(piece.encode()),
                    top_logprobs=self._top(each, top) if top else None,
                )
                for each, piece in zip(tokens, pieces, strict=True)
            ]
        )

    def _top(self, token: TokenSampled, top: int) -> list[TopLogprob]:
        likeliest = zip(token.top_ids[:top], token.top_logprobs[:top], strict=True)
        return [
            TopLogprob(
                token=self._texts[str(token_id)],
                # The sampled one is recorded with more digits.
                logprob=token.logprob if token_id == token.token_id else logprob,
                bytes=self._bytes[token_id],
            )
            for token_id, logprob in likeliest
        ]

    def _utf8(self, token_id: int) -> list[int] | None:
        try:
            found = self._speller.utf8(token_id)
        except Exception:
            # Tokenizers from model repositories raise anything at an id that they lack.
            return None
        return None if found is None else list(found)
