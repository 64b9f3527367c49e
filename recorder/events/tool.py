"""The model, or the experimenter for it, looked at something."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from recorder.events._check import require_counts


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCalled:
    version: ClassVar[int] = 1
    call_id: str
    name: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolReturned:
    """The compact view that the model reads, and where the full result is kept.

    `content_tokens` and `payload_tokens` count the compact view and the full result in the
    model's own tokens. The payload is a blob of the store under `payload_sha256`. `tensors` lists
    what was inspected: `name`, `shape`, `dtype`, `sha256`. `error` is None where the tool worked.
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
    duration_ms: float

    def __post_init__(self) -> None:
        require_counts(
            content_tokens=self.content_tokens,
            payload_bytes=self.payload_bytes,
            payload_tokens=self.payload_tokens,
        )
