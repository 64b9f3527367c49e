"""Conversations with a model, recorded for replays."""

from typing import Any

import tokentape as tt
from tokentape.store import DatabaseStore


def converse(
    lm: tt.LoadedModel,
    store: DatabaseStore,
    seed: int = 7,
    turns: int = 3,
    tokens: int = 14,
    **settings: Any,
) -> tt.Recording:
    """Record a conversation of a few turns with the same settings."""
    with tt.Investigation(
        lm, store=store, name="t", system_prompt="Be kind and brief.", seed=seed
    ) as run:
        for turn in range(turns):
            run.chat(f"Question {turn}?", max_new_tokens=tokens, **settings)
    return store.recording(run.run_id)
