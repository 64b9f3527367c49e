"""Forwards of single tokens, alone or with others, as a batch computed them."""

from functools import cached_property
from typing import Any

import torch

from tokentape.generation import hf
from tokentape.generation.hooks.model_use import current_scopes, shared_forward
from tokentape.recorder import RecordingError
from tokentape.recorder.events import ForwardsShared
from tokentape.replay.results.errors import ReplayError

ROWS_MAX = 1024
"""Larger forwards are not computed for a recording: it may be a stranger's."""


class RepeatedForwards:
    """Repeats the forwards of a round, in which the model keeps its attention kernel."""

    def __init__(self, model: Any) -> None:
        self._model = model

    def forward(
        self, decoder: hf.Decoder, ids: torch.Tensor, shared: ForwardsShared | None
    ) -> torch.Tensor:
        """Forward the last of the ids, int64 of shape (1, tokens), onto the cache.

        Copies of it take the places of the sequences that it was forwarded with. Return the logits
        as `hf.Decoder.forward` does. Raise RecordingError for more than `ROWS_MAX` rows, and
        ReplayError if this model cannot forward several sequences.
        """
        if shared is None:
            return decoder.forward(ids)
        if shared.rows > ROWS_MAX:
            raise RecordingError(
                f"turn {shared.turn} has forwards of {shared.rows:,} sequences; at most "
                f"{ROWS_MAX:,} are repeated"
            )
        obstacle = self._obstacle or hf.cache_obstacle(decoder.cache)
        if obstacle is not None:
            raise ReplayError(
                f"turn {shared.turn} was forwarded together with others, which this model cannot "
                f"be ({obstacle}): `verify` checks its tokens"
            )
        scopes = [*([()] * shared.row), current_scopes()]
        with shared_forward(self._model, scopes):
            step = hf.SequenceStep(decoder, ids)
            return self._forwards.forward([step], rows=shared.rows, places=[shared.row])[0]

    @cached_property
    def _forwards(self) -> hf.SharedForwards:
        return hf.SharedForwards(self._model)

    @cached_property
    def _obstacle(self) -> str | None:
        return hf.sharing_obstacle(self._model)
