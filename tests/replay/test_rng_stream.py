"""The random stream drawn again in bulk gives the numbers that `multinomial` divides by."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tokentape.generation.engine import multinomial
from tokentape.replay.checking.rng_stream import NoiseStream

VOCABULARY = 97
CPU = torch.device("cpu")


def exponentials(seed: int, rows: int) -> torch.Tensor:
    """Draw row by row, as tokens are sampled one after the other."""
    generator = torch.Generator().manual_seed(seed)
    drawn = [torch.empty(VOCABULARY).exponential_(1.0, generator=generator) for _ in range(rows)]
    return torch.stack(drawn)


@settings(max_examples=30)
@given(
    seed=st.integers(0, 2**63 - 1),
    parts=st.lists(st.integers(1, 6), min_size=1, max_size=4),
    share=st.sampled_from([0.0, 0.05, 0.5, 1.0]),
)
def test_rows_at_once_are_the_rows_one_by_one(seed: int, parts: list[int], share: float) -> None:
    stream = NoiseStream(seed, VOCABULARY, CPU)
    mask = torch.rand((sum(parts), VOCABULARY), generator=torch.Generator().manual_seed(1)) < share
    drawn = torch.cat([stream.exponentials(each) for each in mask.split(parts)])
    expected = exponentials(seed, sum(parts))

    assert torch.equal(drawn[mask], expected[mask])


@pytest.mark.parametrize("known", [True, False], ids=["the known stream", "any other"])
@pytest.mark.parametrize("skipped", [0, 1, 3])
def test_rows_that_are_left_out_are_drawn_all_the_same(
    known: bool, skipped: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    if known and not multinomial.draws_are_known(CPU):
        pytest.skip("this torch draws exponentials in another way")
    monkeypatch.setattr(multinomial, "draws_are_known", lambda device: known)
    stream = NoiseStream(5, VOCABULARY, CPU)
    stream.skip(skipped * VOCABULARY)
    everything = torch.ones((2, VOCABULARY), dtype=torch.bool)

    assert torch.equal(stream.exponentials(everything), exponentials(5, skipped + 2)[skipped:])
    assert torch.equal(stream.restarted().exponentials(everything), exponentials(5, 2))


def test_the_pick_is_that_of_multinomial() -> None:
    scores = torch.randn((40, VOCABULARY), generator=torch.Generator().manual_seed(2)) * 3
    scores[scores < 1.0] = -torch.inf
    generator = torch.Generator().manual_seed(9)
    picked = [
        torch.multinomial(torch.softmax(row, dim=-1), 1, generator=generator).item()
        for row in scores
    ]
    stream = NoiseStream(9, VOCABULARY, CPU)
    drawn = torch.softmax(scores, dim=-1) / stream.exponentials(scores > -torch.inf)

    assert drawn.argmax(dim=-1).tolist() == picked
    assert torch.equal(stream.generator.get_state(), generator.get_state())
