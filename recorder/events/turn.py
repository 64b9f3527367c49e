"""A turn: a prompt, and a token at a time until something stops it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from tokentape.recorder.events._check import (
    check,
    check_counts,
    check_finite,
    check_microseconds,
    check_seed,
    check_token_ids,
)
from tokentape.recorder.numbers import are_float32, are_halves, are_int32, are_int64

TOOL_CALL = "tool_call"
"""The `stop_reason` of a part of a turn that goes on behind the result of a tool."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnStarted:
    """The prompt of a turn, as a pointer into the stream and the ids after it.

    The prompt is the first `kept_tokens` of the stream and then `added_ids`; its text is the first
    `kept_chars` of the stream's text and then `added_text`. The prompt becomes the stream, and the
    reply extends it. `history_reason` is empty where the history was extended exactly.

    A turn in which the model calls tools has several parts, each begun so: `first_step` is how many
    tokens of the turn were sampled before. Each part is generated from its own prompt and `seed`.

    `sampling` is the effective generation config: what Hugging Face really used, defaults and all.
    `unreplayable` names what the caller passed that no event can rebuild, such as own processors.
    """

    version: ClassVar[int] = 1
    turn: int
    prompt_tokens: int
    kept_tokens: int
    kept_chars: int
    added_ids: tuple[int, ...]
    added_text: str
    history_reason: str
    seed: int | None
    sampling: Mapping[str, Any]
    unreplayable: tuple[str, ...] = ()
    first_step: int = 0

    def __post_init__(self) -> None:
        check(self.turn >= 1, f"turns count from one: {self.turn}")
        check_counts(
            kept_tokens=self.kept_tokens, kept_chars=self.kept_chars, first_step=self.first_step
        )
        check_token_ids(added_ids=self.added_ids)
        check(
            self.prompt_tokens == self.kept_tokens + len(self.added_ids),
            f"prompt_tokens {self.prompt_tokens} must be kept_tokens {self.kept_tokens} "
            f"plus {len(self.added_ids)} added",
        )
        check(self.prompt_tokens >= 1, "a prompt has at least one token")
        check_seed(self.seed)


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenSampled:
    """The sampler chose one token.

    `step` counts the tokens of the turn, over all its parts. `position` is the token's own place in
    the sequence, prompt included. `logprob` and `logprob_processed` are natural logarithms, float32
    values, before and after the logits processors. What is there to be looked at has half precision
    (see `recorder.numbers`): `entropy` of the raw distribution in nats, `top_gap` between the two
    largest raw logits, and `top_ids`, the likeliest tokens of the raw distribution, best
    first, with their `top_logprobs`; empty when not asked for.
    """

    version: ClassVar[int] = 1
    turn: int
    step: int
    position: int
    token_id: int
    logprob: float
    logprob_processed: float
    entropy: float
    top_gap: float
    duration_us: int
    top_ids: tuple[int, ...] = ()
    top_logprobs: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        check_counts(step=self.step, position=self.position, token_id=self.token_id)
        check_counts(duration_us=self.duration_us)
        check_finite(
            logprob=self.logprob,
            logprob_processed=self.logprob_processed,
            entropy=self.entropy,
            top_gap=self.top_gap,
        )
        check_token_ids(top_ids=self.top_ids)
        # Not `require`: spelling the numbers of each token takes longer than checking them.
        if not are_float32((self.logprob, self.logprob_processed)):
            raise ValueError(
                f"log-probabilities are float32 values: {self.logprob}, {self.logprob_processed}"
            )
        check(
            are_halves((self.entropy, self.top_gap, *self.top_logprobs)),
            "entropy, top_gap and top_logprobs have half precision: round them with "
            "tokentape.recorder.numbers.to_half",
        )
        if not are_int64((self.duration_us,)):
            raise ValueError(f"duration_us is whole microseconds: {self.duration_us}")
        check(
            are_int32((self.turn, self.step, self.position, self.token_id, *self.top_ids)),
            "turn, step, position and token ids are 32-bit integers",
        )
        check(
            len(self.top_ids) == len(self.top_logprobs),
            "each candidate has an id and a log-probability",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnFinished:
    """Generation stopped: the turn is over or, for a `stop_reason` of `tool_call`, a part of it.

    `generated_tokens` are those since the last `TurnStarted`. `text` is the reply as the next
    prompt's template is given it; `stop_text` spells the end-of-sequence token that closed it, or
    is empty. `generator_sha256` hashes the end state of the random generator.
    """

    version: ClassVar[int] = 1
    turn: int
    stop_reason: str
    generated_tokens: int
    text: str
    stop_text: str
    generator_sha256: str
    duration_us: int

    def __post_init__(self) -> None:
        check_microseconds(self.duration_us)
        check(self.generated_tokens >= 1, "a finished turn has at least one token")
