"""Sampled tokens drawn without a model, with the statistics that matter to a store."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from benchmarks.prompts import licence
from tokentape.generation.hf.control_tokens import encode
from tokentape.generation.run_settings import TOP_LOGPROBS
from tokentape.recorder.events import TokenSampled

_SEED = 7
_TEMPERATURE = 0.7
_STEP_MS = 60.0
# Share of steps whose sampled token is not among the top ids.
_OUTSIDE_TOP = 0.02
# Shares of the top ids after the best one: tokens that followed the last token in the text, and
# tokens of the whole vocabulary. The rest are tokens of the text.
_FOLLOWERS, _ANYTHING = 0.6, 0.1

Floats = NDArray[np.float64]


class SyntheticTokens:
    """A source of replies in which tokens follow each other as in a real text.

    How well a store compresses depends on repeated ids, on steps that are nearly certain and on
    rare top ids. Numbers have the precision of a recording: float32 for log-probabilities, half
    precision for entropy, gap and top log-probabilities, whole microseconds for durations.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, *, seed: int = _SEED) -> None:
        self._text = encode(tokenizer, licence())
        self._followers: dict[int, list[int]] = defaultdict(list)
        for before, after in zip(self._text, self._text[1:], strict=False):
            self._followers[before].append(after)
        self._vocabulary = len(tokenizer)
        self._random = np.random.default_rng(seed)
        self._last_id = self._text[0]

    def reply(self, *, turn: int, prompt_tokens: int, count: int) -> list[TokenSampled]:
        """Draw the tokens of a reply to a prompt of `prompt_tokens` tokens."""
        likely = self._probabilities(count)
        logprobs = np.log(likely)
        ranks = self._ranks(likely)
        sampled = self._sampled_logprobs(logprobs, ranks)
        micros = np.round(_STEP_MS * 1000 * self._random.lognormal(0.0, 0.15, count))
        numbers = zip(
            _float32(sampled),
            _float32(_processed(likely, ranks)),
            _half(_entropy(likely)),
            _half(logprobs[:, 0] - logprobs[:, 1]),
            micros.astype(int).tolist(),
            _half(logprobs),
            strict=True,
        )
        tokens = []
        for step, (logprob, processed, entropy, gap, duration_us, top) in enumerate(numbers):
            top_ids = self._top_ids()
            rank = int(ranks[step])
            self._last_id = top_ids[rank] if rank < TOP_LOGPROBS else self._any_id()
            tokens.append(
                TokenSampled(
                    turn=turn,
                    step=step,
                    position=prompt_tokens + step,
                    token_id=self._last_id,
                    logprob=logprob,
                    logprob_processed=processed,
                    entropy=entropy,
                    top_gap=gap,
                    duration_us=duration_us,
                    top_ids=tuple(top_ids),
                    top_logprobs=tuple(top),
                )
            )
        return tokens

    def _probabilities(self, count: int) -> Floats:
        """Draw the probabilities of the top ids, best first, with shape (count, top ids).

        The best one has more than 0.9 in most steps, and little in a few.
        """
        best = np.clip(self._random.beta(1.6, 0.4, count), 0.05, 1 - 1e-6)
        probabilities = [best]
        left = 1 - best
        for _ in range(TOP_LOGPROBS - 1):
            part = np.minimum(left * self._random.uniform(0.2, 0.7, count), probabilities[-1])
            probabilities.append(part)
            left = left - part
        return np.stack(probabilities, axis=1)

    def _ranks(self, likely: Floats) -> NDArray[np.int64]:
        """Draw the rank of each sampled token; one past the last is a token outside the top."""
        shares = _warmed(likely).cumsum(axis=1)
        drawn = self._random.random((len(likely), 1))
        ranks: NDArray[np.int64] = np.minimum((drawn > shares).sum(axis=1), TOP_LOGPROBS - 1)
        ranks[self._random.random(len(likely)) < _OUTSIDE_TOP] = TOP_LOGPROBS
        return ranks

    def _sampled_logprobs(self, logprobs: Floats, ranks: NDArray[np.int64]) -> Floats:
        farther = logprobs[:, -1] - self._random.exponential(1.0, len(ranks))
        return _picked(np.column_stack((logprobs, farther)), ranks)

    def _top_ids(self) -> list[int]:
        """Draw different top ids; the first one follows the last token somewhere in the text."""
        followers = self._followers.get(self._last_id) or self._text
        found = {self._one_of(followers): None}
        while len(found) < TOP_LOGPROBS:
            kind = self._random.random()
            if kind < _ANYTHING:
                found[self._any_id()] = None
            else:
                among = followers if kind < _ANYTHING + _FOLLOWERS else self._text
                found[self._one_of(among)] = None
        return list(found)

    def _one_of(self, ids: Sequence[int]) -> int:
        return ids[int(self._random.integers(len(ids)))]

    def _any_id(self) -> int:
        return int(self._random.integers(self._vocabulary))


def _warmed(likely: Floats) -> Floats:
    powers = likely ** (1 / _TEMPERATURE)
    shares: Floats = powers / powers.sum(axis=1, keepdims=True)
    return shares


def _processed(likely: Floats, ranks: NDArray[np.int64]) -> Floats:
    """Return the sampled tokens' log-probabilities after the temperature."""
    logs = np.log(_warmed(likely))
    return _picked(np.column_stack((logs, logs[:, -1])), ranks)


def _picked(values: Floats, ranks: NDArray[np.int64]) -> Floats:
    picked: Floats = np.take_along_axis(values, ranks[:, None], axis=1)[:, 0]
    return picked


def _entropy(likely: Floats) -> Floats:
    """Return the entropy, with the rest of the probability spread over a hundred tokens."""
    rest = np.clip(1 - likely.sum(axis=1), 1e-9, None)
    entropy: Floats = -(likely * np.log(likely)).sum(axis=1) - rest * np.log(rest / 100)
    return entropy


def _float32(values: Floats) -> list[float]:
    rounded: list[float] = values.astype(np.float32).tolist()
    return rounded


def _half(values: Floats) -> list[Any]:
    """Return numbers, or rows of numbers, rounded to half precision."""
    rounded: list[Any] = values.astype(np.float16).tolist()
    return rounded
