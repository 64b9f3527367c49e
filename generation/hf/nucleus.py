"""`top_p` without sorting the vocabulary, with the result of transformers.

`TopPLogitsWarper` sorts all logits of a row, which on a CPU takes three times as long as
everything else that is done to choose a token. Its result depends on the order only around one
place: where the probabilities of the likeliest tokens add up to `top_p`. That place is looked for
among the largest logits. Where rounding could decide, the warper itself is called.
"""

import torch
from torch.nn.functional import threshold
from transformers import TopPLogitsWarper

_LARGEST = 256
"""The largest logits of a row, among which the boundary is looked for."""
_MARGIN = 2e-4
"""How close a sum of probabilities may come to `top_p` before rounding could decide.

The warper adds float32 numbers. In a softmax of `n` numbers in lanes of 8, rounding errors of
`sqrt(n / 8)` additions of at most 6e-8 each add up to 1e-5 for 262,144 tokens (Higham, Accuracy
and Stability of Numerical Algorithms, 2.8).
"""


def keep_nucleus(warper: TopPLogitsWarper, ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
    """Return what `warper(ids, scores)` returns, bit for bit. `scores` has shape (rows, vocab)."""
    if scores.device.type != "cpu" or scores.shape[-1] <= _LARGEST or warper.min_tokens_to_keep > 1:
        return _sorted(warper, ids, scores)
    removed, is_certain = _largest_removed(scores, warper.top_p)
    if not is_certain.any():
        return _sorted(warper, ids, scores)
    if len(scores) == 1:  # the same numbers as below in a tenth of the time
        return threshold(scores, removed.item(), warper.filter_value)
    filtered = scores.masked_fill(scores <= removed, warper.filter_value)
    if not is_certain.all():
        rows = ~is_certain
        filtered[rows] = _sorted(warper, ids, scores[rows])
    return filtered


def _sorted(warper: TopPLogitsWarper, ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
    filtered: torch.Tensor = warper(ids, scores)
    return filtered


def _largest_removed(scores: torch.Tensor, top_p: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the largest score of each row that is removed, and whether that is certain.

    A token is kept if the tokens above it have less than `top_p` together. The shapes are
    (rows, 1) and (rows,). Nothing is certain for NaN and positive infinity.
    """
    largest = scores.topk(_LARGEST, dim=-1).values
    probabilities = (largest.double() - scores.logsumexp(-1, keepdim=True)).exp()
    above = probabilities.cumsum(-1) - probabilities
    kept = (above < top_p).sum(-1, keepdim=True).clamp(1, _LARGEST - 1)
    removed = largest.gather(-1, kept)
    is_certain = (
        (above.gather(-1, kept - 1) < top_p - _MARGIN)
        & (above.gather(-1, kept) > top_p + _MARGIN)
        & (removed < largest.gather(-1, kept - 1))
    )
    return removed, is_certain.squeeze(-1)
