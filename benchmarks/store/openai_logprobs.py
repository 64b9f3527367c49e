"""Tokens in the format of OpenAI's `logprobs`, for recorders that store no token ids."""

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from benchmarks.rivals.task import RivalTask
from benchmarks.store.workload import SYSTEM_PROMPT, Workload
from tokentape.recorder.events import TokenSampled

Format = Callable[[TokenSampled, Sequence[float]], dict[str, Any]]
"""Formats a token with the log-probabilities of its top ids."""

_SEED = 7
# Half precision rounds to 11 bits.
_HALF_ROUNDING = 2.0**-12


def rival_task(workload: Workload, tokenizer: PreTrainedTokenizerBase) -> RivalTask:
    """Return the conversation in the form that rivals read."""
    format_token = _formatter(tokenizer)
    replies = [each.tokens for each in workload.exchanges]
    float32 = _Float32Noise()
    return RivalTask(
        system_prompt=SYSTEM_PROMPT,
        questions=[each.question for each in workload.exchanges],
        replies=[each.reply for each in workload.exchanges],
        logprobs=[[format_token(each, each.top_logprobs) for each in reply] for reply in replies],
        float32_logprobs=[
            [format_token(each, float32(each)) for each in reply] for reply in replies
        ],
    )


class _Float32Noise:
    """Adds random bits to top log-probabilities, which a recording rounds to half precision.

    The result has the precision, and so the size as text, of a model's float32 output.
    """

    def __init__(self) -> None:
        self._random = np.random.default_rng(_SEED)

    def __call__(self, token: TokenSampled) -> list[float]:
        noise = self._random.uniform(-_HALF_ROUNDING, _HALF_ROUNDING, len(token.top_ids))
        values = np.array(token.top_logprobs) * (1 + noise)
        values32: list[float] = values.astype(np.float32).tolist()
        return values32


def _formatter(tokenizer: PreTrainedTokenizerBase) -> Format:
    @cache
    def text_of(token_id: int) -> str:
        return str(tokenizer.decode([token_id], skip_special_tokens=False))

    def entry(token_id: int, logprob: float) -> dict[str, Any]:
        text = text_of(token_id)
        return {"token": text, "logprob": logprob, "bytes": list(text.encode())}

    def format_token(token: TokenSampled, logprobs: Sequence[float]) -> dict[str, Any]:
        top = [entry(*each) for each in zip(token.top_ids, logprobs, strict=True)]
        return {**entry(token.token_id, token.logprob), "top_logprobs": top}

    return format_token
