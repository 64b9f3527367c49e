"""The model, or the experimenter for it, looked at something."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from tokentape.recorder.events._check import check, check_counts, check_microseconds

CALLERS = ("experimenter", "model")


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCalled:
    """A tool was asked for something, by the `caller`: the `experimenter` or the `model`.

    A model calls in a turn, behind `step` of its tokens, in words of its own: `text`. Where these
    could not be read there is no `name`. An experimenter calls between turns; `turn` and `step` are
    None then.
    """

    version: ClassVar[int] = 1
    call_id: str
    name: str
    arguments: Mapping[str, Any]
    caller: str = CALLERS[0]
    turn: int | None = None
    step: int | None = None
    text: str = ""

    def __post_init__(self) -> None:
        check(self.caller in CALLERS, f"no such caller: {self.caller!r}")
        check_counts(turn=self.turn, step=self.step)


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolReturned:
    """The compact view that the model reads, and where the full result is kept.

    `content_tokens` and `payload_tokens` count the compact view and the full result in the
    model's own tokens. The payload is a blob of the store under `payload_sha256`. `tensors` lists
    what was inspected: `name`, `shape`, `dtype`, `sha256`. `error` is None where the tool worked.
    `turn` is the turn under way where the model called, else None.
    """

    version: ClassVar[int] = 1
    call_id: str
    name: str
    content: str
    content_tokens: int
    payload_sha256: str
    payload_bytes: int
    payload_tokens: int
    tensors: tuple[Mapping[str, Any], ...]
    error: str | None
    duration_us: int
    turn: int | None = None

    def __post_init__(self) -> None:
        check_counts(
            content_tokens=self.content_tokens,
            payload_bytes=self.payload_bytes,
            payload_tokens=self.payload_tokens,
            turn=self.turn,
        )
        check_microseconds(self.duration_us)
