"""A token is picked as by `torch.multinomial`, from the same random numbers."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from packaging.version import Version

from tokentape.generation.engine import multinomial
from tokentape.generation.engine.multinomial import pick, skip_exponentials


def probabilities_of(seed: int, vocabulary: int, left: int) -> torch.Tensor:
    """Return probabilities of which at most `left` are not zero."""
    generator = torch.Generator().manual_seed(seed)
    scores = torch.full((1, vocabulary), -torch.inf)
    places = torch.randint(vocabulary, (left,), generator=generator)
    scores[0, places] = 3 * torch.randn(left, generator=generator)
    return torch.softmax(scores, dim=-1)


def generators(seed: int) -> tuple[torch.Generator, torch.Generator]:
    return torch.Generator().manual_seed(seed), torch.Generator().manual_seed(seed)


def test_this_torch_draws_in_the_way_that_is_known() -> None:
    if Version(torch.__version__) < Version("2.7"):
        pytest.skip("torch 2.6 draws the exponentials of each call from a stream of MKL")
    assert multinomial.draws_are_known(torch.device("cpu"))


@given(
    seed=st.integers(0, 2**32),
    vocabulary=st.sampled_from([1, 7, 64, 1000, 5001]),
    lefts=st.lists(st.sampled_from([1, 2, 3, 50, 400, 6000]), min_size=1, max_size=4),
)
def test_any_tokens_are_picked_as_by_torch(seed: int, vocabulary: int, lefts: list[int]) -> None:
    theirs, ours = generators(seed)

    for number, left in enumerate(lefts):
        probabilities = probabilities_of(seed + number, vocabulary, left)
        expected = torch.multinomial(probabilities, 1, generator=theirs)
        assert torch.equal(pick(probabilities, ours), expected)

    assert torch.equal(ours.get_state(), theirs.get_state())


def test_equal_probabilities_are_picked_as_by_torch() -> None:
    theirs, ours = generators(4)
    probabilities = torch.zeros((1, 2000))
    probabilities[0, ::50] = 1 / 40

    picked = [int(pick(probabilities, ours)) for _ in range(200)]

    assert picked == [int(torch.multinomial(probabilities, 1, generator=theirs)) for _ in picked]
    assert len(set(picked)) > 30, "all tokens that are left are picked from"


@pytest.mark.parametrize("left", [1, 900], ids=["few tokens", "most tokens"])
def test_numbers_that_are_no_probabilities_are_refused_as_by_torch(left: int) -> None:
    scores = torch.full((1, 1000), -torch.inf)
    scores[0, :left] = torch.nan
    probabilities = torch.softmax(scores, dim=-1)

    with pytest.raises(RuntimeError, match="probability tensor contains"):
        pick(probabilities, torch.Generator())


def test_scores_of_which_no_token_is_left_are_refused_as_by_torch() -> None:
    nothing = torch.softmax(torch.full((1, 1000), -torch.inf), dim=-1)

    with pytest.raises(RuntimeError, match="probability tensor contains"):
        pick(nothing, torch.Generator())


@pytest.mark.parametrize("draws", [0, 1, 3])
def test_skipped_picks_leave_the_generator_where_picks_do(draws: int) -> None:
    theirs, ours = generators(5)
    for _ in range(draws):
        torch.multinomial(torch.ones((1, 97)), 1, generator=theirs)

    skip_exponentials(ours, draws * 97, vocabulary=97)

    assert torch.equal(ours.get_state(), theirs.get_state())
