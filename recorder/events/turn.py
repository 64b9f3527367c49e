"""Events of a turn: its prompt, its tokens, its end."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Annotated, ClassVar

from tokentape.recorder.escapes import visible
from tokentape.recorder.events.checks import (
    check,
    check_counts,
    check_duration,
    check_finite,
    check_seed,
    check_token_ids,
    check_turn,
)
from tokentape.recorder.events.fields import (
    Label,
    PromptText,
    Redact,
    Settings,
    Sha256,
    Text,
    TokenId,
    TokenIds,
)
from tokentape.recorder.events.traits import EventBase, EventTraits
from tokentape.recorder.numbers import are_float32, are_halves, are_int32, are_int64


class StopReason(StrEnum):
    """Why generation stopped.

    A criterion of the caller's own is recorded as `custom:` and the name of its class.
    """

    EOS = "eos"
    """The model sampled an end-of-sequence token."""
    STOP_STRING = "stop_string"
    """The reply contains one of `stop_strings`."""
    MAX_NEW_TOKENS = "max_new_tokens"
    """The reply has `max_new_tokens` tokens."""
    MAX_TIME = "max_time"
    """`max_time` seconds have passed."""
    TOOL_CALL = "tool_call"
    """The model called a tool: the turn continues with a further round after the result."""
    CLIENT_CALL = "client_call"
    """The model called a tool that a client runs: the turn is over, and the next has the result."""


REDACTED = "redacted"
"""The word in `TurnStarted.unreplayable` of a redacted run."""

CALLS = frozenset({StopReason.TOOL_CALL, StopReason.CLIENT_CALL})
"""The reasons of replies that end with a tool call: their texts decide that, not their settings."""

_STOP_REASONS = frozenset(StopReason)
_CUSTOM = "custom:"


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnStarted(EventBase):
    """A prompt is complete: a beginning of the stream, and the ids that follow it.

    The prompt becomes the stream, and the reply extends it. A turn in which the model calls tools
    has several rounds, and each begins with this event: it has a prompt and a seed of its own.
    """

    version: ClassVar[int] = 2
    traits: ClassVar[EventTraits] = EventTraits(durable=True)

    turn: int
    prompt_tokens: int
    kept_tokens: int
    """How many ids of the stream the prompt begins with."""
    kept_chars: int
    """How many characters of the stream's text the prompt's text begins with."""
    added_ids: TokenIds
    """The ids of the prompt after these."""
    added_text: PromptText
    """The text of the prompt after these."""
    history_reason: Text
    """Why the prompt does not extend the history exactly; empty if it does."""
    seed: int | None
    """The seed of the round's random generator; None without one."""
    sampling: Settings
    """The effective generation config, defaults included: the settings that `generate` reads."""
    unreplayable: Annotated[tuple[str, ...], Redact.NOTHING] = ()
    """Arguments of the caller that no event can restore, such as own logits processors."""
    first_step: int = 0
    """How many tokens of the turn were sampled in earlier rounds."""
    own_settings: Settings = field(default_factory=dict)
    """The fields of the generation config that `generate` does not read, such as `chat_format`.

    No token depends on them.
    """
    forced_ids: TokenIds = ()
    """The first tokens of the round where the experimenter chose them, not the sampler.

    They are recorded as `TokenSampled`, too. Each uses one draw of the random stream.
    """
    continued_tokens: int = 0
    """How many ids at the end of the prompt are the beginning of this reply, in a fork at a token.

    Settings, processors and the random stream count from the first of them, as if this round had
    generated them.
    """

    def __post_init__(self) -> None:
        check_turn(self.turn)
        check_counts(
            kept_tokens=self.kept_tokens,
            kept_chars=self.kept_chars,
            first_step=self.first_step,
            continued_tokens=self.continued_tokens,
        )
        check_token_ids(added_ids=self.added_ids, forced_ids=self.forced_ids)
        check(
            self.prompt_tokens == self.kept_tokens + len(self.added_ids),
            f"prompt_tokens {self.prompt_tokens} must be kept_tokens {self.kept_tokens} "
            f"plus {len(self.added_ids)} added",
        )
        check(self.prompt_tokens >= 1, "a prompt must have at least one token")
        check(
            self.continued_tokens <= min(self.first_step, self.prompt_tokens - 1),
            f"continued_tokens {self.continued_tokens} must be a part of the prompt and of the "
            f"{self.first_step} earlier tokens of the turn",
        )
        check_seed(self.seed)

    def describe(self) -> str | None:
        """Return the arguments that no event can restore as text for a transcript, if any."""
        names = visible(", ".join(self.unreplayable_arguments))
        return f"not replayable: {names}" if names else None

    @property
    def unreplayable_arguments(self) -> tuple[str, ...]:
        """The names in `unreplayable`, without the mark of redaction."""
        return tuple(each for each in self.unreplayable if each != REDACTED)


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenSampled(EventBase):
    """The sampler chose one token.

    Log-probabilities are natural logarithms. `logprob` and `logprob_processed` are float32 values;
    the entropy, the gap and `top_logprobs` have half precision (see `recorder.numbers`).
    """

    version: ClassVar[int] = 1

    turn: int
    step: int
    """Counts the tokens of the turn from zero, over all its rounds."""
    position: int
    """The token's index in the sequence, prompt included."""
    token_id: TokenId
    logprob: float
    """The token's log-probability by the model's raw logits."""
    logprob_processed: float
    """The same after the logits processors: temperature, top-p and so on.

    Of a token of `TurnStarted.forced_ids`, `logprob` again: processors may have filtered it.
    """
    entropy: float
    """The entropy of the raw distribution, in nats."""
    top_gap: float
    """The difference of the two largest raw logits."""
    duration_us: int
    """The time of the step: forward and sampling."""
    top_ids: Annotated[tuple[int, ...], Redact.TOP_TOKENS] = ()
    """The likeliest tokens of the raw distribution, best first; empty if none are recorded."""
    top_logprobs: Annotated[tuple[float, ...], Redact.TOP_TOKENS] = ()
    """Their raw log-probabilities."""

    def __post_init__(self) -> None:
        check_counts(step=self.step, position=self.position, token_id=self.token_id)
        check_finite(
            logprob=self.logprob,
            logprob_processed=self.logprob_processed,
            entropy=self.entropy,
            top_gap=self.top_gap,
        )
        check_token_ids(top_ids=self.top_ids)
        # Not `check`: to spell the numbers of each token takes longer than to check them.
        if not are_float32((self.logprob, self.logprob_processed)):
            raise ValueError(
                f"log-probabilities are float32 values: {self.logprob}, {self.logprob_processed}"
            )
        check(
            are_halves((self.entropy, self.top_gap, *self.top_logprobs)),
            "entropy, top_gap and top_logprobs have half precision: round them with "
            "tokentape.recorder.numbers.to_half",
        )
        if self.duration_us < 0 or not are_int64((self.duration_us,)):
            check_duration(self.duration_us)
        check(
            are_int32((self.turn, self.step, self.position, self.token_id, *self.top_ids)),
            "turn, step, position and token ids are 32-bit integers",
        )
        check(
            len(self.top_ids) == len(self.top_logprobs),
            "top_ids and top_logprobs must have the same length",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ForwardsShared(EventBase):
    """From this token on, the sequence is forwarded together with others, or alone again.

    Runs of a batch record it where it changes; a round begins alone. The last bits of the logits
    depend on the number of rows, so a retrace needs it.
    """

    version: ClassVar[int] = 1

    turn: int
    step: int
    """The first token whose logits are from such a forward, counted as in `TokenSampled`."""
    rows: int = 1
    """The rows of the forward; some may repeat a sequence. 1 for a sequence alone."""
    row: int = 0
    """The row of this sequence."""
    obstacle: Label = ""
    """Why the run is forwarded alone within a batch, as `kind:what`; empty if it need not be."""

    def __post_init__(self) -> None:
        check_turn(self.turn)
        check_counts(step=self.step, rows=self.rows, row=self.row)
        check(self.row < self.rows, f"row {self.row} must be one of {self.rows} rows")
        check(not self.obstacle or self.rows == 1, "a sequence with an obstacle is alone")

    def describe(self) -> str | None:
        """Return why the run does not share forwards, as text for a transcript, if it does not."""
        if not self.obstacle:
            return None
        return f"batch: its tokens are forwarded alone ({visible(self.obstacle)})"


@dataclass(frozen=True, slots=True, kw_only=True)
class TokensSpelled(EventBase):
    """The texts of token ids, so that a recording can be read without its tokenizer.

    It follows the tokens of a round, also of one that failed. It has the ids of the run's own
    events that the run has not spelled before: those of prompts, `token_id` and `top_ids` of
    `TokenSampled`, and the two ids of `CacheDecided` at which cache and prompt diverge.
    """

    version: ClassVar[int] = 1

    turn: int
    texts: Annotated[Mapping[str, str], Redact.TOP_TOKENS]
    """The text of each id, in decimal digits.

    It is the text within a longer text, with a leading space if the token has one. Bytes that are
    no complete character are `<0xE1>`; a token without text has its name, or an empty text.
    """

    def __post_init__(self) -> None:
        check_turn(self.turn)
        for token_id in self.texts:
            check(
                token_id.isascii() and token_id.isdigit() and int(token_id) < 2**31,
                f"texts must be those of token ids: {token_id!r:.80}",
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnFinished(EventBase):
    """Generation stopped. The turn is over, or a round of it if the stop reason is `tool_call`."""

    version: ClassVar[int] = 1
    traits: ClassVar[EventTraits] = EventTraits(durable=True, sealed=True, changes_summary=True)

    turn: int
    stop_reason: Label
    """A `StopReason`, or `custom:` and the class name of a stopping criterion of the caller's."""
    generated_tokens: int
    """Tokens of the round."""
    text: PromptText
    """The reply as the next prompt's chat template gets it."""
    stop_text: Label
    """The text of the end-of-sequence token that closed the reply, or empty."""
    generator_sha256: Sha256
    """The sum of the end state of the random generator; empty without one."""
    duration_us: int
    """The time of the round, prefill included."""

    def __post_init__(self) -> None:
        check(
            self.stop_reason in _STOP_REASONS or self.stop_reason.startswith(_CUSTOM),
            f"stop_reason must be one of {', '.join(StopReason)} or begin with {_CUSTOM}: "
            f"{self.stop_reason!r}",
        )
        check_duration(self.duration_us)
        check(self.generated_tokens >= 1, "a finished turn must have at least one token")
