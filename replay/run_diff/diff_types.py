"""The differences between two runs as data, for pages, tests and gates to render or judge.

The two runs are `a` and `b` throughout, in the order in which they were given.
"""

from dataclasses import asdict, dataclass
from typing import Any, Generic, TypeVar

from tokentape.recorder.short_forms import html_table, short_repr
from tokentape.replay.results.json_fields import UnequalField
from tokentape.replay.results.renderers import rendered

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Pair(Generic[T]):
    """One value of each run."""

    a: T
    b: T


@dataclass(frozen=True, slots=True, kw_only=True)
class TextSource:
    """The origin of a part of a prompt."""

    role: str
    """Role of a message; `template` for text that the chat template adds around messages, and for
    a prompt that was rendered as a whole."""
    turn: int
    """The turn in which the text was added to the prompt."""
    message: int | None = None
    """Index of the message in the run, with the system prompt at zero."""
    tool_call_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TextDifference:
    """The first difference of two texts."""

    index: int
    """Index of the first character that differs."""
    before: str
    """The end of the text before `index`, which both have."""
    a: str
    """The text from `index` on, cut; empty where it has ended."""
    b: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageDifference:
    """The first new message of a turn that differs."""

    sources: Pair[TextSource | None]
    """None for a run without that message."""
    text: TextDifference | None
    """None where only the role, the tool call or the ids differ."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptDifference:
    """The first id of a prompt that differs, and its source."""

    index: int | None
    """None where the ids are equal, or removed by a redactor."""
    ids: Pair[int | None]
    """None for a prompt that has ended before `index`."""
    tokens: Pair[int]
    """Lengths of the prompts."""
    sources: Pair[TextSource | None]
    text: TextDifference | None
    """None where the texts are equal."""
    inherited: bool
    """Whether the difference comes from earlier turns alone."""
    message: MessageDifference | None
    """The first of the turn's own messages that differs."""
    fields: tuple[UnequalField, ...]
    """Differences of the history: its reason, and what was pruned."""

    @property
    def ids_differ(self) -> bool:
        """Whether the model read other ids, as far as the events show it."""
        return self.index is not None or self.text is not None or self.tokens.a != self.tokens.b


@dataclass(frozen=True, slots=True, kw_only=True)
class SampledToken:
    """The token that one run sampled at the first difference."""

    token_id: int
    text: str | None
    """The text that one of the runs recorded for the id, with bytes that are no characters such as
    `<0xE1>`; None where neither did."""
    logprob: float
    logprob_processed: float
    forced: bool
    """Whether the experimenter chose it, not the sampler."""
    other_logprob: float | None
    """This run's log-probability of the other run's token, in half precision; None where it is not
    among the recorded top tokens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplyDifference:
    """The first token of a reply that differs."""

    step: int | None
    """Number of tokens that agree before it; None where all tokens agree."""
    sampled: Pair[SampledToken | None]
    """None for a reply that has ended before `step`."""
    tokens: Pair[int]
    """Lengths of the replies."""
    text: TextDifference | None
    """None where the texts are equal, or unknown because a turn was cut off."""
    fields: tuple[UnequalField, ...]
    """Differences of the turn's end, such as `stop_reason`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NumberDifferences:
    """Differences of the numbers recorded with each token.

    Only tokens that agree after equal prompts are compared: the models read the same ids there.
    """

    compared: int
    """Number of tokens compared."""
    difference_max: float
    """Nats, of raw log-probabilities."""
    difference_mean: float
    step: int | None
    """First token with a number that differs; None where all are equal."""
    fields: tuple[UnequalField, ...]
    """The numbers of that token that differ."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolDifference:
    """A tool call that differs."""

    call: int
    """Index of the call in the turn."""
    names: Pair[str | None]
    only_in: str
    """The one run that has the call, `a` or `b`; empty where both have it."""
    fields: tuple[UnequalField, ...]
    """Contents that are JSON are compared field by field."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DurationPair:
    """One duration of a turn in both runs, in microseconds; None where nothing was measured."""

    what: str
    """`turn`, `prefill`, `token` (mean of one) or `tools`."""
    a: float | None
    b: float | None
    ratio: float | None
    """`b` divided by `a`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnDiff:
    """The differences of one turn, by its number.

    Events after the last turn of a run, such as an unanswered tool call, are listed under the next
    turn number, with `begun` False. Durations are shown and are no difference.
    """

    turn: int
    begun: bool
    only_in: str = ""
    """The one run that has the turn, `a` or `b`; empty where both have it."""
    inside_model: tuple[UnequalField, ...] = ()
    """Differences of interventions, adapters, foreign hooks and own processors."""
    prompt: PromptDifference | None = None
    reply: ReplyDifference | None = None
    numbers: NumberDifferences | None = None
    sampling: tuple[UnequalField, ...] = ()
    cache: tuple[UnequalField, ...] = ()
    activations: tuple[UnequalField, ...] = ()
    """Differences of observed activations, where prompts and replies are equal."""
    tools: tuple[ToolDifference, ...] = ()
    timing: tuple[DurationPair, ...] = ()

    @property
    def differing(self) -> tuple[str, ...]:
        """Those of turn, inside_model, prompt, reply, numbers, sampling, cache, activations and
        tools that differ."""
        differs = {
            "turn": bool(self.only_in),
            "inside_model": bool(self.inside_model),
            "prompt": self.prompt is not None,
            "reply": self.reply is not None,
            "numbers": self.numbers is not None and self.numbers.step is not None,
            "sampling": bool(self.sampling),
            "cache": bool(self.cache),
            "activations": bool(self.activations),
            "tools": bool(self.tools),
        }
        return tuple(name for name, value in differs.items() if value)

    @property
    def same(self) -> bool:
        return not self.differing

    @property
    def diverges(self) -> bool:
        """Whether another prompt or reply is recorded, or only one run has the turn."""
        other_prompt = self.prompt is not None and (
            self.prompt.ids_differ or self.prompt.message is not None
        )
        other_reply = self.reply is not None and (
            self.reply.step is not None or self.reply.text is not None
        )
        return bool(self.only_in) or other_prompt or other_reply


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparedRun:
    """One of the two runs."""

    run_id: str
    name: str
    model: str
    where: str
    """The store, as the command line takes it."""
    turns: int
    tokens: int
    redacted: bool
    """Whether a redactor removed the ids."""
    status: str
    """`running`, `finished`, or how the run ended otherwise, such as `failed: ValueError: …`."""
    parent_run_id: str | None
    """The run that it was forked from."""
    forked_at_turn: int | None
    """The first turn that it does not share with its parent, or not completely."""
    forked_at_token: int | None
    """The first token of that turn that it does not share; None if it shares none of the turn."""
    other_model: tuple[str, ...]
    """What of its model is not its parent's, such as `weights`; empty for the same model."""


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Diff:
    """The differences between two runs."""

    a: ComparedRun
    b: ComparedRun
    started: tuple[UnequalField, ...]
    """Differences of `RunStarted` that count."""
    noted: tuple[UnequalField, ...]
    """Differences of `RunStarted` that do not count: names, threads, versions, host, warnings,
    and the sources of tools. Their effects are compared."""
    turns: tuple[TurnDiff, ...]
    ended: tuple[UnequalField, ...]
    """Differences of how the runs ended."""

    @property
    def same(self) -> bool:
        """Whether all is equal but durations, memory and the `noted` fields."""
        return not (self.started or self.ended) and all(turn.same for turn in self.turns)

    @property
    def first_turn_changed_inside(self) -> TurnDiff | None:
        """The first turn with other changes inside the model."""
        return next((turn for turn in self.turns if turn.inside_model), None)

    @property
    def first_divergent_turn(self) -> TurnDiff | None:
        """The first turn with another prompt or reply, or that only one run has."""
        return next((turn for turn in self.turns if turn.diverges), None)

    def __repr__(self) -> str:
        first = next((each for each in self.turns if not each.same), None)
        found = "same" if self.same else "all turns are equal, the runs are not"
        if first is not None:
            found = f"turn {first.turn} differs first ({', '.join(first.differing)})"
        return short_repr(self, f"of runs {self.a.run_id}", f"and {self.b.run_id}:", found)

    def _repr_html_(self) -> str:
        rows: list[tuple[object, ...]] = [
            ("run", each.field, each.a, each.b) for each in (*self.started, *self.ended)
        ]
        for turn in self.turns:
            if not turn.same:
                rows.append((f"turn {turn.turn}", ", ".join(turn.differing), *_texts_of(turn)))
        title = "same" if self.same else "differences"
        head = ("where", "what", f"a: {self.a.name}", f"b: {self.b.name}")
        return html_table(f"{title} of two runs", head, rows, end="more differences")

    def text(self) -> str:
        """Return the differences as the command line prints them."""
        return rendered(self, "text")

    def to_dict(self) -> dict[str, Any]:
        """Return the differences as plain values for JSON."""
        turns = [
            asdict(turn) | {"same": turn.same, "differing": list(turn.differing)}
            for turn in self.turns
        ]
        divergent, inside = self.first_divergent_turn, self.first_turn_changed_inside
        return asdict(self) | {
            "turns": turns,
            "same": self.same,
            "first_turn_changed_inside": None if inside is None else inside.turn,
            "first_divergent_turn": None if divergent is None else divergent.turn,
        }


def _texts_of(turn: TurnDiff) -> tuple[str, str]:
    """Return the texts of both runs where the prompt, or else the reply, of a turn differs."""
    for found in (turn.prompt, turn.reply):
        if found is not None and found.text is not None:
            return found.text.a, found.text.b
    return "", ""
