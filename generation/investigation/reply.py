"""What the model said in a turn."""

from collections.abc import Sequence
from dataclasses import dataclass

from tokentape.generation.engine.turn import TurnResult
from tokentape.generation.tools.interface import ToolResult
from tokentape.recorder.events import CacheDecided


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What the model said in a turn, and what it had been shown.

    `parts` are what it said before, between and after calls of tools; `text` and `token_ids` are
    all of it. `cache` is the decision on the prompt of the first part.
    """

    turn: int
    text: str
    token_ids: tuple[int, ...]
    stop_reason: str
    cache: CacheDecided
    tool_results: tuple[ToolResult, ...]
    duration_us: int
    parts: tuple[TurnResult, ...] = ()


def reply_of(parts: Sequence[TurnResult], results: Sequence[ToolResult]) -> Reply:
    """The reply that the parts of a turn make."""
    return Reply(
        turn=parts[0].turn,
        text="".join(part.text for part in parts),
        token_ids=tuple(token_id for part in parts for token_id in part.token_ids),
        stop_reason=parts[-1].stop_reason,
        cache=parts[0].cache,
        tool_results=tuple(results),
        duration_us=sum(part.duration_us for part in parts),
        parts=tuple(parts),
    )
