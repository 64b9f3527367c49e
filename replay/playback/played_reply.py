"""Replies from a tape, with the fields of those of an investigation."""

from collections.abc import Callable
from dataclasses import dataclass, field

from tokentape.recorder.events import CacheDecided, TokenSampled, ToolReturned
from tokentape.recorder.short_forms import counted, quoted, short_repr
from tokentape.replay.playback.recorded_turns import RecordedCall, RecordedRound, RecordedTurn


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class PlayedResult:
    """The recorded result of a tool; see `ToolResult`."""

    returned: ToolReturned
    read_blob: Callable[[str], bytes] | None = field(default=None, compare=False)

    def __repr__(self) -> str:
        return short_repr(self, quoted(self.error or self.content))

    @property
    def content(self) -> str:
        """What the model read."""
        return self.returned.content

    @property
    def error(self) -> str | None:
        """The error of the call; None if it succeeded."""
        return self.returned.error

    @property
    def traceback(self) -> str:
        """Where the tool failed; empty if it did not."""
        return self.returned.traceback

    @property
    def tensors(self) -> tuple[object, ...]:
        """The tensors that the tool read."""
        return tuple(self.returned.tensors)

    @property
    def duration_us(self) -> int:
        """How long the tool took when it was recorded."""
        return self.returned.duration_us

    @property
    def payload(self) -> bytes:
        """The full result, read from the tape; empty if it is not there."""
        if self.read_blob is None or not self.returned.payload_sha256:
            return b""
        return self.read_blob(self.returned.payload_sha256)


@dataclass(frozen=True, slots=True, kw_only=True)
class PlayedPrompt:
    """The prompt of a round: ids, and their text."""

    ids: tuple[int, ...]
    text: str


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class PlayedRound:
    """A stretch of a reply between tool calls; see `Reply.rounds`."""

    turn: int
    prompt: PlayedPrompt
    token_ids: tuple[int, ...]
    text: str
    stop_text: str
    stop_reason: str
    seed: int | None
    cache: CacheDecided | None
    duration_us: int
    first_step: int
    tokens: tuple[TokenSampled, ...]

    def __repr__(self) -> str:
        tokens = f"{counted(len(self.token_ids), 'token')},"
        return short_repr(self, f"of turn {self.turn}:", tokens, f"{self.stop_reason},", self.text)

    @classmethod
    def of(cls, recorded: RecordedRound) -> "PlayedRound":
        """Return a recorded round."""
        turn, finished = recorded.turn, recorded.turn.finished
        assert finished is not None
        return cls(
            turn=turn.number,
            prompt=PlayedPrompt(ids=turn.prompt_ids, text=turn.prompt_text),
            token_ids=turn.reply_ids,
            text=finished.text,
            stop_text=finished.stop_text,
            stop_reason=finished.stop_reason,
            seed=turn.started.seed,
            cache=turn.cache,
            duration_us=finished.duration_us,
            first_step=turn.first_step,
            tokens=turn.tokens,
        )


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class PlayedReply:
    """A recorded reply, with the fields of `Reply` and the tokens with their log-probabilities."""

    turn: int
    text: str
    """The text of all rounds."""
    token_ids: tuple[int, ...]
    stop_reason: str
    """Why the last round stopped."""
    cache: CacheDecided | None
    """The cache decision on the prompt of the first round, when it was recorded."""
    tool_results: tuple[PlayedResult, ...]
    """Those of the user's calls, then those of the model's."""
    duration_us: int
    """How long the reply took when it was recorded."""
    rounds: tuple[PlayedRound, ...]
    tokens: tuple[TokenSampled, ...]
    """Each token with its log-probabilities and, where they are recorded, the likeliest ones."""

    def __repr__(self) -> str:
        return short_repr(
            self,
            f"of turn {self.turn}:",
            f"{counted(len(self.token_ids), 'token')},",
            f"{self.stop_reason},",
            f"{counted(len(self.tool_results), 'tool result')}," if self.tool_results else "",
            quoted(self.text),
        )

    @classmethod
    def of(
        cls, turn: RecordedTurn, read_blob: Callable[[str], bytes] | None = None
    ) -> "PlayedReply":
        """Return the reply of a recorded turn. `read_blob` reads the full results of tools."""
        rounds = tuple(PlayedRound.of(each) for each in turn.rounds)
        calls = [*turn.user_calls, *(call for each in turn.rounds for call in each.calls)]
        return cls(
            turn=turn.number,
            text="".join(each.text for each in rounds),
            token_ids=tuple(token_id for each in rounds for token_id in each.token_ids),
            stop_reason=rounds[-1].stop_reason,
            cache=rounds[0].cache,
            tool_results=tuple(_results(calls, read_blob)),
            duration_us=sum(each.duration_us for each in rounds),
            rounds=rounds,
            tokens=tuple(token for each in rounds for token in each.tokens),
        )


def _results(
    calls: list[RecordedCall], read_blob: Callable[[str], bytes] | None
) -> list[PlayedResult]:
    return [
        PlayedResult(returned=call.returned, read_blob=read_blob)
        for call in calls
        if call.returned is not None
    ]
