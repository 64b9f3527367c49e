"""The turns and tokens that a header points to."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from tokentape.replay.view.token_columns import TokenColumns
from tokentape.replay.view.viewed_turns import ViewedTurn


def highlights(turns: Sequence[ViewedTurn], columns: TokenColumns) -> dict[str, int | None]:
    """Return the most telling turns by number and tokens by row; None where no token is.

    A turn is less sure the higher the mean entropy of its tokens. Tokens that the experimenter
    chose do not count as surprising.
    """
    numbers = columns.columns
    sampled = [each for each in turns if each.end_token > each.first_token]
    rounds = [each.turn for turn in turns for each in turn.rounds]
    surprise = np.where(numbers["forced"], -np.inf, -numbers["logprob"].astype(np.float64))

    def entropy_of(turn: ViewedTurn) -> float:
        rows = numbers["entropy"][turn.first_token : turn.end_token]
        return float(rows.mean(dtype=np.float64))

    reused = [(each.cache.reused_tokens, each.number) for each in rounds if each.cache is not None]
    return {
        "least_sure_turn": max(sampled, key=entropy_of).number if sampled else None,
        "least_sure_token": _largest(numbers["entropy"]),
        "most_surprising_token": None if np.all(np.isneginf(surprise)) else _largest(surprise),
        "slowest_token": _largest(numbers["duration_us"]),
        "largest_cache_saving_turn": max(reused)[1] if reused else None,
    }


def _largest(numbers: Any) -> int | None:
    return int(np.argmax(numbers)) if len(numbers) else None
