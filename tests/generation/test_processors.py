"""Processing many rows at once gives the same scores as row by row."""

import copy
from typing import Any

import pytest
import torch

import tokentape as tt
from tokentape.generation import hf

SETTINGS: dict[str, dict[str, Any]] = {
    "none": {"do_sample": False},
    "filters": {"do_sample": True, "temperature": 0.7, "top_k": 40, "top_p": 0.9, "min_p": 0.01},
    "odd filters": {
        "do_sample": True,
        "typical_p": 0.8,
        "epsilon_cutoff": 1e-3,
        "eta_cutoff": 1e-3,
        "top_h": 0.6,
    },
    "penalty": {"do_sample": False, "repetition_penalty": 1.3},
    "history": {
        "do_sample": True,
        "repetition_penalty": 1.2,
        "no_repeat_ngram_size": 2,
        "bad_words_ids": [[7, 8], [9]],
        "sequence_bias": [[[11, 12], -3.0]],
    },
    "lengths": {
        "do_sample": False,
        "min_new_tokens": 4,
        "begin_suppress_tokens": [3, 4],
        "suppress_tokens": [5],
        "exponential_decay_length_penalty": (2, 1.1),
        "forced_eos_token_id": 2,
    },
    "encoder": {"do_sample": False, "encoder_repetition_penalty": 1.4},
    "watermark": {"do_sample": True, "watermarking_config": {"greenlist_ratio": 0.4, "bias": 2.5}},
}


@pytest.mark.parametrize("name", SETTINGS)
def test_rows_at_once_equal_rows_one_by_one(name: str, lm: tt.LoadedModel) -> None:
    generator = torch.Generator().manual_seed(3)
    prompt_tokens, rows = 6, 9
    ids = torch.randint(3, 40, (1, prompt_tokens + rows), generator=generator)
    logits = torch.randn((rows, 272), generator=generator) * 3
    given = logits.clone()
    config = hf.effective_config(lm.model, max_new_tokens=rows, **copy.deepcopy(SETTINGS[name]))

    def processors() -> Any:
        return hf.prepare(lm.model, lm.tokenizer, config, ids[:, :prompt_tokens]).processors

    one_by_one = processors()
    expected = torch.cat(
        [
            hf.process(one_by_one, ids[:, : prompt_tokens + row], logits[row : row + 1])
            for row in range(rows)
        ]
    )
    at_once = processors()
    parts = [
        hf.process_rows(at_once, ids, prompt_tokens + start, logits[start : start + 4])
        for start in range(0, rows, 4)
    ]

    # Some releases compute a NaN from two processors that exclude the same token.
    torch.testing.assert_close(torch.cat(parts), expected, rtol=0, atol=0, equal_nan=True)
    assert torch.equal(logits, given)


def test_a_custom_processor_gets_the_rows_in_order(lm: tt.LoadedModel) -> None:
    seen: list[tuple[int, ...]] = []

    class Counting:
        def __call__(self, ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
            seen.append(tuple(ids.shape))
            return scores.add_(len(seen))

    ids, logits = torch.zeros((1, 9), dtype=torch.long), torch.zeros((3, 272))
    scores = hf.process_rows([Counting()], ids, 5, logits)  # type: ignore[arg-type]

    assert seen == [(1, 5), (1, 6), (1, 7)]
    assert scores[:, 0].tolist() == [1.0, 2.0, 3.0]
    assert not logits.any()
