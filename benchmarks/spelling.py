"""Tokens spelled as OpenAI's interface has them, for those who keep no ids."""

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from benchmarks.rivals.talk import Talk
from benchmarks.workload import SYSTEM_PROMPT, Workload
from tokentape.recorder.events import TokenSampled

Spell = Callable[[TokenSampled, Sequence[float]], dict[str, Any]]
"""A token with the log-probabilities of its candidates."""

_SEED = 7
# Half precision rounds to 11 bits.
_HALF_ROUNDING = 2.0**-12


def talk_of(workload: Workload, tokenizer: PreTrainedTokenizerBase) -> Talk:
    """The conversation as rivals are given it."""
    spell = _speller(tokenizer)
    replies = [each.tokens for each in workload.exchanges]
    unrounded = _Unrounded()
    return Talk(
        system_prompt=SYSTEM_PROMPT,
        questions=[each.question for each in workload.exchanges],
        replies=[each.reply for each in workload.exchanges],
        logprobs=[[spell(each, each.top_logprobs) for each in reply] for reply in replies],
        precise_logprobs=[[spell(each, unrounded(each)) for each in reply] for reply in replies],
    )


class _Unrounded:
    """Log-probabilities of candidates with the bits of float32 that a recording rounds away."""

    def __init__(self) -> None:
        self._random = np.random.default_rng(_SEED)

    def __call__(self, token: TokenSampled) -> list[float]:
        noise = self._random.uniform(-_HALF_ROUNDING, _HALF_ROUNDING, len(token.top_ids))
        values = np.array(token.top_logprobs) * (1 + noise)
        lifted: list[float] = values.astype(np.float32).tolist()
        return lifted


def _speller(tokenizer: PreTrainedTokenizerBase) -> Spell:
    @cache
    def text_of(token_id: int) -> str:
        return str(tokenizer.decode([token_id], skip_special_tokens=False))

    def entry(token_id: int, logprob: float) -> dict[str, Any]:
        text = text_of(token_id)
        return {"token": text, "logprob": logprob, "bytes": list(text.encode())}

    def spell(token: TokenSampled, logprobs: Sequence[float]) -> dict[str, Any]:
        top = [entry(*each) for each in zip(token.top_ids, logprobs, strict=True)]
        return {**entry(token.token_id, token.logprob), "top_logprobs": top}

    return spell
