"""The reply of a turn."""

from collections.abc import Sequence
from dataclasses import dataclass

from tokentape.generation.engine.turn import TurnResult
from tokentape.generation.tools.interface import ToolResult
from tokentape.recorder.events import CacheDecided
from tokentape.recorder.short_forms import counted, html_facts, quoted, short_repr


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Reply:
    """What the model said in a turn, and the tool results that it was given."""

    turn: int
    text: str
    """The text of all rounds."""
    token_ids: tuple[int, ...]
    """The sampled ids of all rounds, end-of-sequence tokens included."""
    stop_reason: str
    """Why the last round stopped."""
    cache: CacheDecided
    """The cache decision on the prompt of the first round."""
    tool_results: tuple[ToolResult, ...]
    duration_us: int
    rounds: tuple[TurnResult, ...] = ()
    """The stretches of the reply between tool calls, in order."""

    def __repr__(self) -> str:
        return short_repr(
            self,
            f"of turn {self.turn}:",
            f"{counted(len(self.token_ids), 'token')},",
            f"{self.stop_reason},",
            f"{counted(len(self.tool_results), 'tool result')}," if self.tool_results else "",
            quoted(self.text),
        )

    def _repr_html_(self) -> str:
        cache = f"{self.cache.decision} ({self.cache.reason})"
        computed = f"{self.cache.reused_tokens:,} of {self.cache.prompt_tokens:,} tokens reused"
        return html_facts(
            f"Reply of turn {self.turn}",
            [
                ("text", self.text),
                ("tokens", len(self.token_ids)),
                ("stopped by", self.stop_reason),
                ("cache", f"{cache}, {computed}"),
                *(("tool result", each.error or each.content) for each in self.tool_results),
                ("duration", f"{self.duration_us / 1_000_000:.2f} s"),
            ],
        )


def reply_of(rounds: Sequence[TurnResult], results: Sequence[ToolResult]) -> Reply:
    """Return the reply that the rounds of a turn make together."""
    return Reply(
        turn=rounds[0].turn,
        text="".join(each.text for each in rounds),
        token_ids=tuple(token_id for each in rounds for token_id in each.token_ids),
        stop_reason=rounds[-1].stop_reason,
        cache=rounds[0].cache,
        tool_results=tuple(results),
        duration_us=sum(each.duration_us for each in rounds),
        rounds=tuple(rounds),
    )
