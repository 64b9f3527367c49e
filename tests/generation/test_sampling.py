"""Draws follow the distribution of the processed scores."""

import torch

from tokentape.generation.engine.sampling import draw


def test_draws_have_the_distribution_of_the_scores() -> None:
    scores = torch.tensor([[2.0, 1.0, 0.0, -1.0, -float("inf")]])
    random = torch.Generator().manual_seed(0)
    draws = [int(draw(scores, scores, generator=random).token) for _ in range(5000)]
    observed = torch.bincount(torch.tensor(draws), minlength=5).double() / len(draws)
    expected = torch.softmax(scores[0], dim=-1).double()

    # Five standard deviations of the count of each token.
    assert bool(((observed - expected).abs() <= 5 * (expected / 5000).sqrt()).all())
