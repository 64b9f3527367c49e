"""The log-probabilities of a reply's tokens, as a chat completion has them."""

import copy
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tokentape.generation.history.spelling import TokenSpeller
from tokentape.recorder.events import TokenSampled

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_LEAST = -9999.0
"""What OpenAI's API has for a token that cannot be; JSON has no infinity."""


@dataclass(frozen=True, slots=True)
class _Spelled:
    text: str
    utf8: list[int] | None


class TokenLogprobs:
    """Writes tokens with their log-probabilities; each id is spelled once."""

    def __init__(self, tokenizer: "PreTrainedTokenizerBase") -> None:
        # A tokenizer is not made for several threads: turns use the given one.
        self._speller = TokenSpeller(copy.deepcopy(tokenizer))
        self._lock = threading.Lock()
        self._spelled: dict[int, _Spelled] = {}

    def listed(self, tokens: Iterable[TokenSampled], top: int) -> list[dict[str, Any]]:
        """Return an entry for each token, with the `top` likeliest tokens of its step.

        The log-probabilities are those of the model's raw logits, before temperature and filters:
        they say what the model held likely, however its tokens are drawn.
        """
        with self._lock:
            return [self._entry(each, top) for each in tokens]

    def _entry(self, token: TokenSampled, top: int) -> dict[str, Any]:
        likeliest = zip(token.top_ids[:top], token.top_logprobs[:top], strict=True)
        return {
            **self._spelling(token.token_id, token.logprob),
            "top_logprobs": [
                # The sampled one is recorded with more digits.
                self._spelling(each, token.logprob if each == token.token_id else logprob)
                for each, logprob in likeliest
            ],
        }

    def _spelling(self, token_id: int, logprob: float) -> dict[str, Any]:
        spelled = self._spelled.get(token_id)
        if spelled is None:
            spelled = self._spelled[token_id] = self._spell(token_id)
        return {"token": spelled.text, "logprob": max(logprob, _LEAST), "bytes": spelled.utf8}

    def _spell(self, token_id: int) -> _Spelled:
        try:
            text, utf8 = self._speller.text(token_id), self._speller.utf8(token_id)
        except Exception:
            # Tokenizers from model repositories raise anything at an id that they lack.
            return _Spelled("", None)
        return _Spelled(text, None if utf8 is None else list(utf8))
