"""What two runs differ in: data first, so that a page, a test or a gate can be made of it.

The two runs are `a` and `b` throughout, in the order in which they were given.
"""

from dataclasses import asdict, dataclass
from typing import Any, Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Sides(Generic[T]):
    a: T
    b: T


@dataclass(frozen=True, slots=True, kw_only=True)
class UnequalField:
    """A field and both its values. `lacking` is the side that has no such field: `a` or `b`."""

    field: str
    a: Any
    b: Any
    lacking: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Whose words stand at a place of a prompt, and the turn in which they came to stand there.

    `role` is `template` for what was written around messages, or for all of a prompt that was
    written anew. `message` counts the messages of the run from zero, the system prompt among them.
    """

    role: str
    turn: int
    message: int | None = None
    tool_call_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TextParting:
    """Where two texts part: `at` is the first character that differs, `before` what both have.

    `a` and `b` go on from the beginning of the word; empty where that text has ended.
    """

    at: int
    before: str
    a: str
    b: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageDifference:
    """The first of a turn's new messages that is not the same; a side is None where it has none.

    `text` is None where only the role, the call that it answers or its ids differ.
    """

    places: Sides[Place | None]
    text: TextParting | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptDifference:
    """The first id of a prompt that differs, and whose it is.

    `index` is None where the ids are the same, or withheld by a redactor. A side of `ids` is None
    behind the end of that prompt. `text` is None where the texts are the same. A difference is
    `inherited` where it stands in what an earlier turn has left; `message` is the first of the
    turn's own messages that differs. `fields` are the history's: its reason, and what was pruned.
    """

    index: int | None
    ids: Sides[int | None]
    tokens: Sides[int]
    places: Sides[Place | None]
    text: TextParting | None
    inherited: bool
    message: MessageDifference | None
    fields: tuple[UnequalField, ...]

    @property
    def ids_differ(self) -> bool:
        """Whether the model read something else, as far as it is known."""
        return self.index is not None or self.text is not None or self.tokens.a != self.tokens.b


@dataclass(frozen=True, slots=True, kw_only=True)
class SampledToken:
    """One side's token. `other_logprob` is what this side gave to the other side's token, in half
    precision; None where it is not among the candidates that were recorded."""

    token_id: int
    logprob: float
    logprob_processed: float
    other_logprob: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplyDifference:
    """The first token of a reply that differs: `step` tokens before it agree.

    `step` is None where all tokens agree. A side of `sampled` is None behind the end of that reply.
    `text` is None where the texts are the same, or not known: a turn that was cut off has none.
    `fields` are what the end of the turn says otherwise, such as `stop_reason`.
    """

    step: int | None
    sampled: Sides[SampledToken | None]
    tokens: Sides[int]
    text: TextParting | None
    fields: tuple[UnequalField, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Numbers:
    """How far log-probabilities are apart, as far as they can be compared.

    That is over the `compared` tokens that agree behind the same prompt: after it, the two models
    were not asked the same. The differences are absolute, in nats. `step` is the first token with
    another number, in `fields`; None where all are equal.
    """

    compared: int
    difference_max: float
    difference_mean: float
    step: int | None
    fields: tuple[UnequalField, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolDifference:
    """A tool call that is not the same. `call` counts the calls of the turn from zero.

    `only_in` is the side that alone has it. Contents that are JSON are compared field by field.
    """

    call: int
    names: Sides[str | None]
    only_in: str
    fields: tuple[UnequalField, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Duration:
    """Microseconds; `ratio` is b's over a's. None where there is nothing to measure."""

    what: str
    a: float | None
    b: float | None
    ratio: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnDiff:
    """A turn of both runs, by its number; `only_in` is the side that alone has it, `a` or `b`.

    What a run holds behind its last turn, such as the call of a tool that never came back, is
    listed under the coming turn, which has not `begun` in either run then. Durations are never a
    difference that counts.
    """

    turn: int
    begun: bool
    only_in: str = ""
    prompt: PromptDifference | None = None
    reply: ReplyDifference | None = None
    numbers: Numbers | None = None
    sampling: tuple[UnequalField, ...] = ()
    cache: tuple[UnequalField, ...] = ()
    tools: tuple[ToolDifference, ...] = ()
    timing: tuple[Duration, ...] = ()

    @property
    def differing(self) -> tuple[str, ...]:
        """Which of turn, prompt, reply, numbers, sampling, cache and tools are not the same."""
        parts = {
            "turn": bool(self.only_in),
            "prompt": self.prompt is not None,
            "reply": self.reply is not None,
            "numbers": self.numbers is not None and self.numbers.step is not None,
            "sampling": bool(self.sampling),
            "cache": bool(self.cache),
            "tools": bool(self.tools),
        }
        return tuple(name for name, differs in parts.items() if differs)

    @property
    def same(self) -> bool:
        return not self.differing

    @property
    def parts(self) -> bool:
        """Whether another thing is read or said here, or only one run has the turn."""
        other_prompt = self.prompt is not None and (
            self.prompt.ids_differ or self.prompt.message is not None
        )
        other_reply = self.reply is not None and (
            self.reply.step is not None or self.reply.text is not None
        )
        return bool(self.only_in) or other_prompt or other_reply


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparedRun:
    """One of the two runs; `withheld` says that a redactor kept its ids back."""

    run_id: str
    name: str
    model: str
    where: str
    turns: int
    tokens: int
    withheld: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Diff:
    """Two runs compared.

    `beginning` and `ending` are fields of how they began and ended. `circumstances` are what a run
    was called and where it ran: the name, the model's name, threads and versions; they are noted
    and do not count, because what comes of them is compared.
    """

    a: ComparedRun
    b: ComparedRun
    beginning: tuple[UnequalField, ...]
    circumstances: tuple[UnequalField, ...]
    turns: tuple[TurnDiff, ...]
    ending: tuple[UnequalField, ...]

    @property
    def same(self) -> bool:
        """Everything is equal but times, memory and circumstances."""
        return not (self.beginning or self.ending) and all(turn.same for turn in self.turns)

    @property
    def parting(self) -> TurnDiff | None:
        """The first turn in which another thing is read or said, or that only one run has."""
        return next((turn for turn in self.turns if turn.parts), None)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as JSON takes them."""
        turns = [
            asdict(turn) | {"same": turn.same, "differing": list(turn.differing)}
            for turn in self.turns
        ]
        parting = self.parting
        return asdict(self) | {
            "turns": turns,
            "same": self.same,
            "parting": None if parting is None else parting.turn,
        }
