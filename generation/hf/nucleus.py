"""`top_p` without sorting the vocabulary, with the result of transformers.

`TopPLogitsWarper` sorts all logits of a row, which on a CPU takes three times as long as
everything else that is done to choose a token. Its result depends on the order only around one
place: where the probabilities of the likeliest tokens add up to `top_p`. That place is looked for
among the largest logits; after `top_k`, they are all that is left. Where rounding could decide,
the warpers themselves are called.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import threshold
from transformers import LogitsProcessor, TopKLogitsWarper, TopPLogitsWarper

_LARGEST = 256
"""The largest logits of a row, among which the boundary is looked for."""
_MARGIN = 2e-4
"""How close a sum of probabilities may come to `top_p` before rounding could decide.

The warper adds float32 numbers. In a softmax of `n` numbers in lanes of 8, rounding errors of
`sqrt(n / 8)` additions of at most 6e-8 each add up to 1e-5 for 262,144 tokens (Higham, Accuracy
and Stability of Numerical Algorithms, 2.8).
"""


def without_sorting(processors: Iterable[Any]) -> list[Any]:
    """Return the processors, with one in place of each `top_p` and of a `top_k` before it."""
    replaced: list[Any] = []
    for each in processors:
        if type(each) is not TopPLogitsWarper:
            replaced.append(each)
        elif replaced and _selects_few(replaced[-1], each):
            replaced[-1] = Nucleus(each, top_k=replaced[-1])
        else:
            replaced.append(Nucleus(each))
    return replaced


def _selects_few(processor: Any, top_p: TopPLogitsWarper) -> bool:
    return (
        type(processor) is TopKLogitsWarper
        and processor.top_k < _LARGEST
        and processor.filter_value == top_p.filter_value
    )


@dataclass(frozen=True, slots=True)
class Nucleus(LogitsProcessor):
    """`top_p`, or `top_k` and then `top_p`: the bits of transformers' warpers in less time."""

    top_p: TopPLogitsWarper
    top_k: TopKLogitsWarper | None = None

    def __call__(self, ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Return the filtered scores. They have shape (rows, vocab)."""
        if not _can_read(scores) or self.top_p.min_tokens_to_keep > 1:
            return self._by_warpers(ids, scores)
        removed, is_certain = self._largest_removed(scores)
        if not is_certain.any():
            return self._by_warpers(ids, scores)
        if len(scores) == 1:  # the same numbers as below in a tenth of the time
            return threshold(scores, removed.item(), self.top_p.filter_value)
        filtered = scores.masked_fill(scores <= removed, self.top_p.filter_value)
        if not is_certain.all():
            rows = ~is_certain
            filtered[rows] = self._by_warpers(ids, scores[rows])
        return filtered

    def _by_warpers(self, ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        if self.top_k is not None:
            # Equal logits at the end of `top_k`, as 16 bits give, need no sorting.
            return Nucleus(self.top_p)(ids, self.top_k(ids, scores))
        filtered: torch.Tensor = self.top_p(ids, scores)
        return filtered

    def _largest_removed(self, scores: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the largest score of each row that is removed, and whether that is certain.

        A token is kept if the tokens above it have less than `top_p` together. The shapes are
        (rows, 1) and (rows,). Nothing is certain for NaN and positive infinity.
        """
        top_p, top_k = self.top_p.top_p, None if self.top_k is None else self.top_k.top_k
        count = _LARGEST if top_k is None else top_k + 1
        largest = scores.topk(count, dim=-1).values
        left = scores if top_k is None else largest[:, :top_k]
        probabilities = (largest.double() - left.logsumexp(-1, keepdim=True)).exp()
        above = probabilities.cumsum(-1) - probabilities
        kept = (above < top_p).sum(-1, keepdim=True).clamp(1, count - 1)
        removed = largest.gather(-1, kept)
        is_certain = (
            (above.gather(-1, kept - 1) < top_p - _MARGIN)
            & (above.gather(-1, kept) > top_p + _MARGIN)
            & (removed < largest.gather(-1, kept - 1))
        )
        if top_k is not None:  # equal scores at its end are all left
            is_certain &= largest[:, top_k:] < largest[:, top_k - 1 : top_k]
        return removed, is_certain.squeeze(-1)


def _can_read(scores: torch.Tensor) -> bool:
    """Return whether reading numbers of the scores waits for nothing, and they are enough."""
    return scores.device.type == "cpu" and scores.shape[-1] > _LARGEST
