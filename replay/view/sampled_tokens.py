"""The tokens of a run, read as columns: much faster than as events, one by one."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from tokentape.recorder import Envelope, Recording
from tokentape.recorder.events import TokenSampled

_PLACES = ("turn", "step", "position", "token_id")
# Setting the fields of a slotted event by their descriptors skips the checks of `__init__`: columns
# have the types that these ask for.
_SETTERS = [getattr(TokenSampled, name).__set__ for name in _PLACES]


@dataclass(frozen=True, slots=True)
class SampledTokens:
    """The own tokens of one run, in order."""

    run_id: str
    table: pa.Table
    """The columns of `tokentape.store.arrow.TOKENS`."""
    seqs: Any
    """The numbers of their events."""

    @classmethod
    def read(cls, recording: Recording) -> "SampledTokens | None":
        """Read the tokens of a run; None where they can be read only as events."""
        if recording.read_tokens is None:
            return None
        table = recording.read_tokens()
        versions = table["version"].to_numpy()
        if len(table) and (versions != TokenSampled.version).any():
            return None
        return cls(recording.run_id, table, table["seq"].to_numpy())

    def between(self, after_seq: int, last_seq: int | None) -> "SampledTokens":
        """Return the tokens after one event and up to another."""
        first = int(np.searchsorted(self.seqs, after_seq, "right"))
        end = len(self.seqs)
        if last_seq is not None:
            end = int(np.searchsorted(self.seqs, last_seq, "right"))
        return SampledTokens(
            self.run_id, self.table.slice(first, end - first), self.seqs[first:end]
        )

    def envelopes(self) -> Iterator[Envelope]:
        """Yield the tokens as events without their numbers, which the columns have.

        Other fields than turn, step, position and id are not set.
        """
        set_turn, set_step, set_position, set_id = _SETTERS
        places = (self.table[name].to_pylist() for name in _PLACES)
        new, run_id = TokenSampled.__new__, self.run_id
        for seq, turn, step, position, token_id in zip(self.seqs.tolist(), *places, strict=True):
            event = new(TokenSampled)
            set_turn(event, turn)
            set_step(event, step)
            set_position(event, position)
            set_id(event, token_id)
            yield Envelope(run_id, seq, 0, event, turn)
