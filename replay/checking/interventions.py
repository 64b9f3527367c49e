"""What was done inside the model while it was recorded, to be done again in replays."""

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
from tokentape.replay.errors import ReplayError
from tokentape.store.errors import StoreError


@dataclass(frozen=True, slots=True)
class Interventions:
    """The tensors of what acted, by their sha256; without any where nothing is to act again."""

    tensors: dict[str, torch.Tensor]
    act: bool = True

    @classmethod
    def of(cls, recording: Recording, turns: Sequence[Turn], *, act: bool) -> "Interventions":
        """Read what the turns need. Raises ReplayError for what is not there, or is damaged."""
        tensors: dict[str, torch.Tensor] = {}
        for turn in turns if act else ():
            for each in turn.interventions:
                sha256 = each.applied.tensor_sha256
                if sha256 and sha256 not in tensors:
                    tensors[sha256] = _read(recording, each, sha256)
        return cls(tensors, act)

    def of_turn(self, turn: Turn) -> tuple[ActiveRange, ...]:
        """What is to act on its prompt and reply."""
        return turn.interventions if self.act else ()

    def salt_ids(self, turn: Turn) -> tuple[int, ...]:
        """Prompt and reply as a cache is given them: equal only where equally much acts on them."""
        return salt_ids((*turn.prompt_ids, *turn.reply_ids), self.of_turn(turn))

    @contextmanager
    def acting(self, model: Any, ranges: Sequence[ActiveRange]) -> Iterator[None]:
        """While it lasts the model is intervened with; its next forward is of position zero on.

        Raises ReplayError for a layer that it does not have, and ModelError from a forward for
        numbers that do not fit.
        """
        if not ranges:
            yield
            return
        forward = ForwardPositions(source=RECOMPUTED)
        try:
            with (
                track_positions(model, forward),
                apply_interventions(model, ranges, forward, self.tensors),
            ):
                yield
        except ToolError as error:
            raise ReplayError(f"a recorded intervention cannot be repeated: {error}") from None


def _read(recording: Recording, each: ActiveRange, sha256: str) -> torch.Tensor:
    what = f"intervention {each.name!r} of run {recording.run_id}"
    if recording.read_blob is None:
        raise ReplayError(f"{what} has a vector, and no payloads are at hand: replay from a store")
    try:
        return tensor_from_bytes(recording.read_blob(sha256), sha256)
    except (LookupError, OSError, StoreError) as error:
        raise ReplayError(f"the vector of {what} is not there: {error}") from None
    except ModelError as error:
        raise ReplayError(f"the vector of {what} cannot be read: {error}") from None
