"""The recorded interventions of a run, applied again during replays."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from tokentape.generation import ModelError, ToolError
from tokentape.generation.cache import salt_ids
from tokentape.generation.hooks.forward_positions import (
    RECOMPUTED,
    ForwardPositions,
    track_positions,
)
from tokentape.generation.interventions import apply_interventions, tensor_from_bytes
from tokentape.recorder import Recording
from tokentape.recorder.projections import ActiveRange, Turn
from tokentape.replay.results.errors import ReplayError
from tokentape.store.errors import StoreError


@dataclass(frozen=True, slots=True)
class Interventions:
    """The interventions that a replay applies again, with their tensors."""

    tensors: dict[str, torch.Tensor]
    """By sha256."""
    enabled: bool = True
    """False for a replay without interventions."""

    @classmethod
    def load(cls, recording: Recording, turns: Sequence[Turn], *, enabled: bool) -> "Interventions":
        """Read the tensors of the turns. Raise ReplayError if one is missing or damaged."""
        tensors: dict[str, torch.Tensor] = {}
        for turn in turns if enabled else ():
            for each in turn.interventions:
                sha256 = each.applied.tensor_sha256
                if sha256 and sha256 not in tensors:
                    tensors[sha256] = _read_tensor(recording, each, sha256)
        return cls(tensors, enabled)

    def of_turn(self, turn: Turn) -> tuple[ActiveRange, ...]:
        """Return the interventions to apply to the turn's prompt and reply."""
        return turn.interventions if self.enabled else ()

    def salt_ids(self, turn: Turn) -> tuple[int, ...]:
        """Return the ids of prompt and reply, salted with the interventions active on each."""
        return salt_ids((*turn.prompt_ids, *turn.reply_ids), self.of_turn(turn))

    @contextmanager
    def applied(
        self, model: Any, ranges: Sequence[ActiveRange], *, start: int = 0
    ) -> Iterator[None]:
        """Apply the interventions within this context, whose first forward begins at `start`.

        Raise ReplayError for a layer that the model does not have. A forward raises ModelError if
        the numbers do not fit.
        """
        if not ranges:
            yield
            return
        forward = ForwardPositions(end=start, source=RECOMPUTED)
        try:
            with (
                track_positions(model, forward),
                apply_interventions(model, ranges, forward, self.tensors),
            ):
                yield
        except ToolError as error:
            raise ReplayError(f"a recorded intervention cannot be repeated: {error}") from None


def _read_tensor(recording: Recording, each: ActiveRange, sha256: str) -> torch.Tensor:
    intervention = f"intervention {each.name!r} of run {recording.run_id}"
    if recording.read_blob is None:
        raise ReplayError(
            f"{intervention} has a vector, and no blobs can be read: replay from a store"
        )
    try:
        return tensor_from_bytes(recording.read_blob(sha256), sha256)
    except (LookupError, OSError, StoreError) as error:
        raise ReplayError(f"the vector of {intervention} is missing: {error}") from None
    except ModelError as error:
        raise ReplayError(f"the vector of {intervention} cannot be read: {error}") from None
