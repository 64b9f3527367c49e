"""Where in the sequence the forward under way computes: what hooks inside a model cannot see."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

PREFILL, DECODE, RECOMPUTED = "prefill", "decode", "recomputed"


@dataclass(slots=True)
class Forward:
    """The forward under way computes the absolute positions `start` to `end`, half-open.

    `source` is `prefill`, `decode` or `recomputed`, and `turn` the turn that it is made for. Both
    are set by whoever drives the model; the positions count themselves.
    """

    start: int = 0
    end: int = 0
    source: str = PREFILL
    turn: int = 0

    @property
    def length(self) -> int:
        return self.end - self.start


@contextmanager
def counting_forwards(model: Any, forward: Forward | None = None) -> Iterator[Forward]:
    """Keep `forward` true while the model runs: each call goes on where the last one ended.

    `forward.end` is where the first call begins: zero, or as many tokens as the cache holds. Only
    calls of one sequence, with ids, are counted. It is a hook of the model itself, and comes before
    those of its layers.
    """
    counted = forward or Forward()

    def advance(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        ids = kwargs.get("input_ids", args[0] if args else None)
        if ids is None:
            ids = kwargs["inputs_embeds"]
        counted.start, counted.end = counted.end, counted.end + int(ids.shape[1])

    handle = model.register_forward_pre_hook(advance, with_kwargs=True, prepend=True)
    try:
        yield counted
    finally:
        handle.remove()
