"""A run begins and ends."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from recorder.events._check import require, require_counts, require_seed


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStarted:
    """Everything that must be equal for the run to be repeated.

    `model` is what `load_model` was given. The fingerprints are hexadecimal sha256 sums; that of
    the template is empty where the tokenizer has none. `sampler_sha256` hashes the first draws of
    a known seed: random streams change between versions of torch and between processors.
    `behaviour` names the choices of tokentape that change what is generated or recorded.
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
    behaviour: Mapping[str, Any]

    def __post_init__(self) -> None:
        require_seed(self.seed)
        # They are columns of tables, and PostgreSQL knows no text with a NUL.
        require("\0" not in self.name + self.model, "a name holds no NUL character")
        require(self.threads >= 1, f"threads must be at least one: {self.threads}")


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFinished:
    """The run ended as it was meant to.

    `turns` and `generated_tokens` count the turns that finished, the prompts those that began.
    """

    version: ClassVar[int] = 1
    turns: int
    prompt_tokens: int
    reused_tokens: int
    computed_tokens: int
    generated_tokens: int

    def __post_init__(self) -> None:
        require_counts(turns=self.turns, generated_tokens=self.generated_tokens)
        require(
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
