"""A run begins and ends."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from tokentape.recorder.events._check import check, check_counts, check_seed

INTERRUPTED = "interrupted"
"""The `reason` of a run that its user ended in the middle."""

_SHA256 = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStarted:
    """Everything that must be equal for the run to be repeated.

    `model` is what `load_model` was given. The fingerprints are hexadecimal sha256 sums; that of
    the template is empty where the tokenizer has none. `sampler_sha256` hashes the first draws of
    a known seed: random streams change between versions of torch and between processors.
    `weights_listed` says that `weights_sha256` is the sum of a list of all tensors, each with a
    digest of its own, which is a blob of the store under that sum; a redacted run has the sum only.
    Without it, in recordings from before, it is a sum of all tensors at once.
    """

    version: ClassVar[int] = 1
    name: str
    seed: int | None
    model: str
    weights_sha256: str
    tokenizer_sha256: str
    template_sha256: str
    generation_config: Mapping[str, Any]
    sampler_sha256: str
    dtype: str
    device: str
    attention_kernel: str
    threads: int
    context_tokens: int | None
    environment: Mapping[str, str]
    settings: Mapping[str, Any]
    """The choices that change what is generated or recorded, as `RunSettings.to_record` gives them.

    Read them with `RunSettings.from_record`.
    """
    cache_policy: Mapping[str, Any] = field(default_factory=dict)
    """How the model's KV cache can be reused, and why; see `CachePolicy`."""
    tools: tuple[str, ...] = ()
    """Names of the tools that can be called in the run."""
    redacted: bool = False
    """A redactor rewrote the texts of the run; its token ids are not recorded."""
    weights_listed: bool = False

    def __post_init__(self) -> None:
        check_seed(self.seed)
        # They are columns of tables, and PostgreSQL knows no text with a NUL.
        check("\0" not in self.name + self.model, "a name holds no NUL character")
        check(self.threads >= 1, f"threads must be at least one: {self.threads}")
        check(
            not self.weights_listed or _SHA256.fullmatch(self.weights_sha256) is not None,
            f"a listed sum of weights is hexadecimal sha256: {self.weights_sha256!r}",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResumed:
    """The run goes on in another process, or after its end.

    What was put before the model since the last turn began, and no turn took up, is void: it comes
    again. `turn` is the turn under way, of which the first `step` tokens are kept; both are None
    between turns. `environment` and the others are what `RunStarted` says, as they are now.
    """

    version: ClassVar[int] = 1
    turn: int | None
    step: int | None
    weights_sha256: str
    sampler_sha256: str
    device: str
    threads: int
    environment: Mapping[str, str]

    def __post_init__(self) -> None:
        check(
            (self.turn is None) == (self.step is None),
            "a turn that goes on has a step, and only such a turn",
        )
        check_counts(turn=self.turn, step=self.step)
        check(self.threads >= 1, f"threads must be at least one: {self.threads}")


@dataclass(frozen=True, slots=True, kw_only=True)
class RunForked:
    """The run begins where another one stood: that one's events are its own up to `parent_seq`.

    They are not copied. `parent_hash` is what `check` calls the tail hash of the parent's events up
    to there: it names the very events that are shared. `at_turn` is the first turn of the run's
    own, and `changes` says what the experimenter wanted otherwise in it.
    """

    version: ClassVar[int] = 1
    parent_run_id: str
    parent_seq: int
    parent_hash: str
    at_turn: int
    changes: Mapping[str, Any]

    def __post_init__(self) -> None:
        check_counts(parent_seq=self.parent_seq)
        check(self.at_turn >= 1, f"turns count from one: {self.at_turn}")
        check(bool(self.parent_run_id), "a fork has a parent")


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFinished:
    """The run ended as it was meant to, or, for a `reason` of `interrupted`, as its user wished.

    `turns` and `generated_tokens` count the turns that finished, the prompts those that began.
    """

    version: ClassVar[int] = 1
    turns: int
    prompt_tokens: int
    reused_tokens: int
    computed_tokens: int
    generated_tokens: int
    reason: str = ""

    def __post_init__(self) -> None:
        check_counts(turns=self.turns, generated_tokens=self.generated_tokens)
        check(
            self.prompt_tokens == self.reused_tokens + self.computed_tokens,
            f"prompt_tokens {self.prompt_tokens} must be reused_tokens {self.reused_tokens} "
            f"plus computed_tokens {self.computed_tokens}",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFailed:
    """The run ended with an error."""

    version: ClassVar[int] = 1
    error: str
    message: str
    traceback: str
