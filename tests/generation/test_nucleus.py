"""`top_p` without sorting has the result of transformers' warper."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import LogitsProcessorList, TopKLogitsWarper, TopPLogitsWarper

from tokentape.generation.hf.nucleus import Nucleus, without_sorting
from tokentape.generation.hf.processors import process, process_rows

IDS = torch.zeros((1, 1), dtype=torch.long)


def scores_of(
    seed: int, *, rows: int = 1, vocabulary: int = 3000, peaks: int = 40, spread: float = 1.5
) -> torch.Tensor:
    """Return logits like those of language models: few large ones above many small ones."""
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn((rows, vocabulary), generator=generator)
    likely = torch.randint(vocabulary, (rows, peaks), generator=generator)
    above = 9 + spread * torch.randn((rows, peaks), generator=generator)
    return scores.scatter_add(-1, likely, above)


def same_bits(one: torch.Tensor, other: torch.Tensor) -> bool:
    return torch.equal(one.view(torch.int32), other.view(torch.int32))


def has_the_bits_of_the_warper(
    warper: TopPLogitsWarper, scores: torch.Tensor, *, top_k: int | None = None
) -> bool:
    few = None if top_k is None else TopKLogitsWarper(top_k)
    left = scores.clone() if few is None else few(IDS, scores.clone())
    processors = [warper] if few is None else [few, warper]
    (nucleus,) = without_sorting(processors)
    return same_bits(warper(IDS, left), nucleus(IDS, scores))


@given(
    seed=st.integers(0, 2**32),
    rows=st.integers(1, 4),
    vocabulary=st.sampled_from([200, 256, 257, 300, 1000, 5000]),
    peaks=st.integers(1, 200),
    spread=st.floats(0, 8),
    temperature=st.floats(0.05, 20),
    top_p=st.floats(0.001, 0.9999),
    steps=st.sampled_from([None, 1.0, 0.125]),
    top_k=st.sampled_from([None, 1, 2, 50, 255]),
)
def test_any_scores_are_filtered_as_by_the_warper(
    seed: int,
    rows: int,
    vocabulary: int,
    peaks: int,
    spread: float,
    temperature: float,
    top_p: float,
    steps: float | None,
    top_k: int | None,
) -> None:
    scores = scores_of(seed, rows=rows, vocabulary=vocabulary, peaks=peaks, spread=spread)
    if steps is not None:  # equal logits, as 16-bit models give
        scores = (scores / steps).round() * steps

    assert has_the_bits_of_the_warper(TopPLogitsWarper(top_p), scores / temperature, top_k=top_k)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("every", [1, 3, 700], ids=["all", "many", "few"])
@pytest.mark.parametrize("top_k", [None, 20])
def test_numbers_that_are_not_finite_are_filtered_as_by_the_warper(
    value: float, every: int, top_k: int | None
) -> None:
    scores = scores_of(1, rows=2)
    scores[0, ::every] = value

    assert has_the_bits_of_the_warper(TopPLogitsWarper(0.9), scores, top_k=top_k)


@pytest.mark.parametrize("left", [1, 19, 20, 21])
def test_few_scores_that_are_left_before_top_k_are_filtered_as_by_the_warper(left: int) -> None:
    scores = torch.full((1, 1000), -math.inf)
    scores[0, 5 : 5 + left] = torch.randn(left, generator=torch.Generator().manual_seed(1))

    assert has_the_bits_of_the_warper(TopPLogitsWarper(0.9), scores, top_k=20)


def test_a_sum_that_is_the_boundary_itself_is_filtered_as_by_the_warper() -> None:
    scores = torch.full((1, 1000), -math.inf)
    scores[0, :8] = torch.tensor([8.0, 4, 2, 1, 1, 0.5, 0.25, 0.25]).log()
    total = scores.exp().sum()

    for count in range(1, 8):
        top_p = float(scores[0, :count].exp().sum() / total)
        assert has_the_bits_of_the_warper(TopPLogitsWarper(top_p), scores)


def test_the_warper_sorts_only_the_rows_in_which_rounding_could_decide(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sorted_rows: list[int] = []
    call = TopPLogitsWarper.__call__

    def counted(self: Any, ids: Any, scores: torch.Tensor) -> Any:
        sorted_rows.append(len(scores))
        return call(self, ids, scores)

    monkeypatch.setattr(TopPLogitsWarper, "__call__", counted)
    scores = scores_of(2, rows=8)
    scores[5] = 0.0

    Nucleus(TopPLogitsWarper(0.9))(IDS, scores)
    Nucleus(TopPLogitsWarper(0.9), TopKLogitsWarper(50))(IDS, scores)

    assert sorted_rows == [1, 1]


def test_top_k_that_leaves_many_tokens_or_is_not_before_top_p_stays() -> None:
    few, many, top_p = TopKLogitsWarper(255), TopKLogitsWarper(256), TopPLogitsWarper(0.9)
    other = TopKLogitsWarper(50, filter_value=-5.0)

    assert without_sorting([few, top_p, few]) == [Nucleus(top_p, few), few]
    assert without_sorting([many, top_p]) == [many, Nucleus(top_p)]
    assert without_sorting([other, top_p]) == [other, Nucleus(top_p)]
    assert without_sorting([top_p, top_p]) == [Nucleus(top_p), Nucleus(top_p)]


def test_settings_that_keep_several_tokens_and_other_warpers_are_left_to_transformers() -> None:
    class Other(TopPLogitsWarper):
        def __call__(self, ids: Any, scores: Any) -> Any:
            return scores + 1

    scores = scores_of(3)

    assert torch.equal(process(LogitsProcessorList([Other(0.9)]), IDS, scores), scores + 1)
    assert has_the_bits_of_the_warper(TopPLogitsWarper(0.001, min_tokens_to_keep=5), scores)


def test_rows_at_once_and_one_by_one_are_filtered_alike_after_top_k() -> None:
    processors = LogitsProcessorList([TopKLogitsWarper(50), TopPLogitsWarper(0.8)])
    scores = scores_of(4, rows=6)

    together = process_rows(processors, torch.zeros((1, 7), dtype=torch.long), 1, scores)

    alone = [process(processors, IDS, scores[row : row + 1]) for row in range(6)]
    by_warper = TopPLogitsWarper(0.8)(IDS, TopKLogitsWarper(50)(IDS, scores))
    assert torch.equal(together, torch.cat(alone))
    assert torch.equal(together, by_warper)


@pytest.mark.slow
def test_many_rows_of_a_large_vocabulary_are_filtered_as_by_the_warper() -> None:
    near = 0
    for seed in range(100):
        scores = scores_of(seed, rows=16, vocabulary=150_000, peaks=300, spread=2.0)
        top_p = 0.5 + 0.499 * (seed / 100)
        assert has_the_bits_of_the_warper(TopPLogitsWarper(top_p), scores)
        assert has_the_bits_of_the_warper(TopPLogitsWarper(top_p), scores, top_k=50)
        near += int((~Nucleus(TopPLogitsWarper(top_p))._largest_removed(scores)[1]).sum())

    assert near < 100 * 16 / 2, "most rows are not sorted"
