"""An invalid event cannot be made."""

import dataclasses
import typing
from typing import Any

import pytest

from tests.made_events import run_started
from tokentape.recorder import events
from tokentape.recorder.events import CacheDecided, Event, HistoryPruned, TokenSampled, TurnStarted

DECIDED = {
    "turn": 1,
    "decision": "hit",
    "reason": "extends",
    "prompt_tokens": 10,
    "reused_tokens": 7,
    "computed_tokens": 3,
    "cached_tokens": 7,
    "cropped_tokens": 0,
}
TOKEN = {
    "turn": 1,
    "step": 0,
    "position": 10,
    "token_id": 5,
    "logprob": -1.0,
    "logprob_processed": -0.5,
    "entropy": 2.0,
    "top_gap": 0.5,
    "duration_us": 1_000,
}
PRUNED = {
    "turn": 5,
    "policy": "turns",
    "reason": "6 tokens had to go",
    "removed_tokens": ((2, 5), (5, 8)),
    "removed_chars": ((4, 9),),
    "removed_messages": (1, 2),
    "tokens_before": 10,
    "tokens_after": 4,
}


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"computed_tokens": 4}, "must be reused_tokens 7 plus"),
        ({"reused_tokens": 10, "computed_tokens": 0}, "always computed"),
        ({"decision": "maybe"}, "decision must be one of 'hit', 'partial', 'miss', 'bypass'"),
        ({"decision": "miss"}, "a miss cannot reuse"),
        ({"cropped_tokens": -1}, "must not be negative"),
    ],
)
def test_a_cache_decision_that_does_not_add_up_is_refused(
    change: dict[str, Any], complaint: str
) -> None:
    assert CacheDecided(**DECIDED).reused_tokens == 7

    with pytest.raises(ValueError, match=complaint):
        CacheDecided(**DECIDED | change)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"policy": "everything"}, "policy must be one of"),
        ({"removed_tokens": ((5, 8), (2, 5))}, "removed_tokens must ascend"),
        ({"removed_tokens": ((2, 6), (5, 7))}, "neither overlap"),
        ({"removed_tokens": ((2, 2), (2, 8))}, "nor be empty"),
        ({"removed_chars": ((-1, 3),)}, "removed_chars must ascend"),
        ({"removed_tokens": ((6, 12),)}, "are not within 10"),
        ({"tokens_after": 5}, "less 6 removed"),
        ({"removed_messages": ()}, "removed_messages must not be empty"),
        ({"turn": 0}, "count from one"),
    ],
)
def test_a_pruning_of_ranges_that_do_not_exist_is_refused(
    change: dict[str, Any], complaint: str
) -> None:
    assert HistoryPruned(**PRUNED).tokens_after == 4

    with pytest.raises(ValueError, match=complaint):
        HistoryPruned(**PRUNED | change)


@pytest.mark.parametrize(
    "change",
    [
        {"logprob": float("nan")},
        {"entropy": float("inf")},
        {"token_id": -1},
        {"top_ids": (1, 2), "top_logprobs": (-1.0,)},
    ],
)
def test_a_token_without_a_finite_measure_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"must|each"):
        TokenSampled(**TOKEN | change)


def test_a_prompt_has_the_kept_and_the_added_tokens() -> None:
    with pytest.raises(ValueError, match="plus 2 added"):
        TurnStarted(
            turn=1,
            prompt_tokens=4,
            kept_tokens=3,
            kept_chars=0,
            added_ids=(1, 2),
            added_text="",
            history_reason="",
            seed=None,
            sampling={},
        )


def test_events_are_frozen_slotted_and_keyword_only() -> None:
    for cls in typing.get_args(Event):
        assert cls.__dataclass_params__.frozen, cls
        assert "__slots__" in vars(cls), cls
        assert all(field.kw_only for field in dataclasses.fields(cls)), cls


def test_every_event_is_listed_in_the_catalogue() -> None:
    listed = (getattr(events, name) for name in events.__all__)
    classes = {each for each in listed if "version" in getattr(each, "__dict__", {})}

    assert classes == set(typing.get_args(Event))


def test_a_name_with_nul_is_refused() -> None:
    with pytest.raises(ValueError, match="must not contain NUL"):
        run_started(name="a\0b")


def test_a_seed_beyond_64_bits_is_refused() -> None:
    with pytest.raises(ValueError, match="must fit into 64 signed bits"):
        run_started(seed=2**63)


@pytest.mark.parametrize("sha256", ["", "w", "A" * 64, "0" * 63, "0" * 65, "0" * 64 + "\n"])
def test_the_sum_of_listed_weights_must_be_a_sha256(sha256: str) -> None:
    assert run_started(weights_sha256="0" * 64, weights_listed=True).weights_listed
    assert not run_started(weights_sha256=sha256).weights_listed
    with pytest.raises(ValueError, match="weights_sha256 of listed weights must be"):
        run_started(weights_sha256=sha256, weights_listed=True)
