"""The settings of a run: typed, checked when they are given, and recorded in `RunStarted`."""

import os
from collections.abc import Collection, Mapping
from dataclasses import MISSING, dataclass, field, fields
from enum import StrEnum
from typing import Any, Literal, TypedDict, cast, get_args

from tokentape.generation.checks import check_count, check_recordable
from tokentape.generation.context_length import context_tokens, position_table_tokens
from tokentape.generation.errors import ModelError, PromptError
from tokentape.generation.numerics.attention import cuda_device
from tokentape.recorder import RecordingError
from tokentape.recorder.near_names import nearest
from tokentape.recorder.plain_values import plain_value, plain_whole

PREFILL_CHUNK_TOKENS = 512
"""Bounds the memory of a prefill; the matrices are large enough to be computed at full speed."""
PREFILL_CHUNK_TOKENS_CUDA = 2048
"""The same on CUDA, where chunks of 512 take three times as long (docs/limits.md)."""
TOP_LOGPROBS = 5
PROBE: Literal["probe"] = "probe"
Threads = int | Literal["probe"] | None
"""A number of threads, `probe` to have the fastest number chosen, or None for torch's own."""
CACHE_BYTES = 8 * 1024**3
"""What llama.cpp's server keeps in memory, too."""
History = Literal["exact", "template"]
HISTORIES = get_args(History)
"""How a conversation makes the prompt of its next turn; see `Conversation`."""
NO_HISTORY = "none"
"""The `history` of a run of `model.generate` calls: every turn has a prompt of its own."""
AtContextLimit = Literal["refuse", "prune_tool_results", "prune_turns"]
AT_CONTEXT_LIMIT = get_args(AtContextLimit)
ResultRole = Literal["auto", "tool", "user"]
RESULT_ROLES = get_args(ResultRole)
_RENAMED = {"candidates": "top_logprobs", "behaviour": "metadata", "protocol": "plan"}


class GeneratorKeywords(TypedDict, total=False):
    """The settings that `ManualGenerator` takes as keywords; see `RunSettings`."""

    prefill_chunk_tokens: int | None
    top_logprobs: int
    cache_bytes: int
    prefix_folder: str | os.PathLike[str] | None
    threads: Threads
    history: History
    template_settings: Mapping[str, Any] | None
    context_tokens: int | None


class InvestigationKeywords(GeneratorKeywords, total=False):
    """The settings that `Investigation` takes as keywords; see `RunSettings`."""

    at_context_limit: AtContextLimit
    context_budget_tokens: int | None
    tool_calls_max: int
    tool_call_format: str | Mapping[str, Any]
    tool_result_role: ResultRole
    plan: Mapping[str, Any] | None
    metadata: Mapping[str, Any]


class ResumeKeywords(TypedDict, total=False):
    """The settings that `Investigation.resume` takes: those that no recording has."""

    prefix_folder: str | os.PathLike[str] | None
    threads: Threads


class ForkKeywords(ResumeKeywords, total=False):
    """What `Investigation.fork` takes: what may differ from the parent run."""

    name: str
    seed: int
    prefill_chunk_tokens: int | None
    top_logprobs: int
    cache_bytes: int
    context_tokens: int | None
    at_context_limit: AtContextLimit
    context_budget_tokens: int | None
    tool_calls_max: int


class SettingScope(StrEnum):
    """Where a setting is kept, and whether a fork may change it."""

    PROCESS = "process"
    """Not recorded: it changes nothing that is generated."""
    RUN = "run"
    """Recorded; a fork has its parent's."""
    FORK = "fork"
    """Recorded; a fork may have another value."""


_PROCESS = {"scope": SettingScope.PROCESS}
_RUN = {"scope": SettingScope.RUN}
_FORK = {"scope": SettingScope.FORK}


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSettings:
    """The choices that change what a run generates or records, and those of its process.

    Raise ModelError or PromptError for a value that a setting cannot have.
    """

    prefill_chunk_tokens: int | None = field(default=PREFILL_CHUNK_TOKENS, metadata=_FORK)
    """Most tokens of a prefill's forward; bounds its memory. None forwards a prompt at once.

    Left out, it is `default_chunk_tokens` of the model's device.
    """
    top_logprobs: int = field(default=TOP_LOGPROBS, metadata=_FORK)
    """How many of the likeliest tokens are recorded of each step."""
    cache_bytes: int = field(default=CACHE_BYTES, metadata=_FORK)
    """Most bytes of KV cache that are kept between turns."""
    prefix_folder: str | os.PathLike[str] | None = field(default=None, metadata=_PROCESS)
    """Folder in which system prompts are cached for other processes."""
    threads: Threads = field(default=None, metadata=_PROCESS)
    """Threads that torch computes a turn with; None for those it has when the run begins.

    `probe` times a few forwards when the run begins, and takes the fastest number.
    """
    history: History = field(default=HISTORIES[0], metadata=_RUN)
    """`exact` or `template`; see `Conversation`."""
    template_settings: Mapping[str, Any] | None = field(default_factory=dict, metadata=_RUN)
    """Variables that the chat template is given at every render."""
    context_tokens: int | None = field(default=None, metadata=_FORK)
    """The length of the model's context, if it is another than the config says."""
    at_context_limit: AtContextLimit = field(default=AT_CONTEXT_LIMIT[0], metadata=_FORK)
    """What is done about a message that does not fit into the context or the budget.

    `refuse` it, or remove the oldest part of the history and record that (`prune_tool_results`,
    `prune_turns`; see `plan_pruning`).
    """
    context_budget_tokens: int | None = field(default=None, metadata=_FORK)
    """Most tokens of a prompt and its reply, if that is to be less than the model's context."""
    tool_calls_max: int = field(default=8, metadata=_FORK)
    """Most tool calls of the model that are run in one turn."""
    tool_call_format: str | Mapping[str, Any] = field(default="auto", metadata=_RUN)
    """How the model writes its calls: the name of a format, or a spelling; see `CallReader`.

    Recorded is the one in use.
    """
    tool_result_role: ResultRole = field(default=RESULT_ROLES[0], metadata=_RUN)
    """Role of the messages with tool results: `tool`, `user`, or `auto` for the template's."""
    plan: Mapping[str, Any] | None = field(default=None, metadata=_RUN)
    """The experiment plan that the run follows, as `ExperimentPlan.described` gives it."""
    metadata: Mapping[str, Any] = field(default_factory=dict, metadata=_RUN)
    """Facts of the user's that are recorded with the run; nothing reads them."""

    def __post_init__(self) -> None:
        for each in fields(self):
            value = _plain(each.name, getattr(self, each.name))
            object.__setattr__(self, each.name, value)
        for name, least, most in _COUNTS:
            value = getattr(self, name)
            if name == "threads" and isinstance(value, str):
                if value != PROBE:
                    raise ModelError(f"threads must be a whole number or {PROBE!r}: {value!r}")
            elif value is not None or name in _ALWAYS_COUNTED:
                check_count(name, value, least=least, most=most)
        for name, known in _CHOICES.items():
            value = getattr(self, name)
            if not isinstance(value, str) or value not in known:
                choices = ", ".join(map(repr, known))
                near = nearest(value, known)
                raise PromptError(f"{name} must be one of {choices}, not {value!r}{near}")
        for name in ("template_settings", "plan", "metadata"):
            value = getattr(self, name)
            if not isinstance(value, Mapping | None):
                raise ModelError(f"{name} is a mapping, not {value!r}")
            check_recordable(name, dict(value or {}))
        if not isinstance(self.tool_call_format, str | Mapping):
            raise ModelError(
                f"tool_call_format is a string or a mapping, not {self.tool_call_format!r}"
            )

    @classmethod
    def from_keywords(
        cls, keywords: Mapping[str, Any], model: Any, *, owner: str, known: Collection[str]
    ) -> "RunSettings":
        """Return the settings with these keywords of `owner`, and defaults for the rest.

        Raise TypeError for a keyword that is not `known`, with its new name if it was renamed.
        """
        for name in keywords:
            if name not in known:
                raise TypeError(f"{owner} has no setting {name!r}{_instead(name, known)}")
        default = default_chunk_tokens(on_cuda=cuda_device(model) is not None)
        return cls(**{"prefill_chunk_tokens": default, **keywords})

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> "RunSettings":
        """Return the settings that `to_record` wrote.

        Raise RecordingError if they are not a run's settings, for instance in a redacted run.
        """
        if not isinstance(record, Mapping):
            raise RecordingError(f"the recorded settings are no mapping: {record!r}")
        unknown = sorted(record.keys() - RECORDED)
        if unknown:
            raise RecordingError(f"the recording has a setting {unknown[0]!r}: there is none")
        try:
            return cls(**record)
        except ModelError as error:
            raise RecordingError(f"the recorded settings are damaged: {error}") from None

    def to_record(self) -> dict[str, Any]:
        """Return the recorded settings as values that JSON can hold."""
        values = {name: getattr(self, name) for name in RECORDED}
        return {
            name: dict(value or {}) if name in _MAPPINGS or isinstance(value, Mapping) else value
            for name, value in values.items()
        }

    def as_keywords(self) -> InvestigationKeywords:
        """Return all settings as keywords of `Investigation`."""
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        return cast("InvestigationKeywords", values)

    def context_of(self, model: Any) -> int | None:
        """Return the length of the context: that of the user, else that of the model's config.

        None is no limit. Raise ModelError for more tokens than the model has learned positions.
        """
        if self.context_tokens is None:
            return context_tokens(model)
        table = position_table_tokens(model)
        if table is not None and self.context_tokens > table:
            raise ModelError(
                f"context_tokens is {self.context_tokens}, but the model has learned only {table} "
                "positions"
            )
        return self.context_tokens

    def prompt_tokens_max(self, context_tokens: int | None, new_tokens: int) -> int | None:
        """Return how long a prompt may be if `new_tokens` follow it, or None for any length.

        `context_tokens` is the length of the model's context, None if that is not known.
        """
        limits = [each for each in (context_tokens, self.context_budget_tokens) if each is not None]
        return min(limits) - new_tokens if limits else None


def default_chunk_tokens(*, on_cuda: bool) -> int:
    """Return how many tokens a prefill forwards at once unless the user chooses another number."""
    return PREFILL_CHUNK_TOKENS_CUDA if on_cuda else PREFILL_CHUNK_TOKENS


_COUNTS = (
    ("prefill_chunk_tokens", 1, 2**62),
    ("top_logprobs", 0, 2**62),
    ("cache_bytes", 0, 2**62),
    ("threads", 1, 4096),
    ("context_tokens", 1, 2**62),
    ("context_budget_tokens", 1, 2**62),
    ("tool_calls_max", 0, 2**62),
)
_ALWAYS_COUNTED = ("top_logprobs", "cache_bytes", "tool_calls_max")
_CHOICES = {
    "history": (*HISTORIES, NO_HISTORY),
    "at_context_limit": AT_CONTEXT_LIMIT,
    "tool_result_role": RESULT_ROLES,
}
_MAPPINGS = ("template_settings", "metadata")


_COUNTED = {name for name, *_ in _COUNTS}


def _plain(name: str, value: Any) -> Any:
    """Return a setting with plain numbers. Raise ModelError for one that refers to itself."""
    try:
        return plain_whole(value) if name in _COUNTED else plain_value(value)
    except RecursionError:
        raise ModelError(f"{name} is nested too deeply") from None


def _with_scope(*scopes: SettingScope) -> tuple[str, ...]:
    return tuple(each.name for each in fields(RunSettings) if each.metadata["scope"] in scopes)


RECORDED = _with_scope(SettingScope.RUN, SettingScope.FORK)
"""Names of the settings that a recording has."""
OF_THE_PROCESS = _with_scope(SettingScope.PROCESS)
"""Names of the settings that no recording has."""
FORKABLE = _with_scope(SettingScope.FORK)
"""Names of the recorded settings that a fork may change."""


_ARGUMENTS = ("name", "system_prompt", "tools", "seed", "store", "redactor")
"""Keywords of `Investigation` that are no settings, for hints."""


def _instead(name: str, known: Collection[str]) -> str:
    if name in _RENAMED and _RENAMED[name] in known:
        return f": use {_RENAMED[name]}="
    if name in InvestigationKeywords.__annotations__:
        return ": give it to Investigation"
    return f"{nearest(name, (*known, *_ARGUMENTS))}: there are {', '.join(known)}"


def check_may_change(keywords: Mapping[str, Any], known: Collection[str]) -> None:
    """Raise PromptError for a setting that cannot change once a run has begun."""
    for name in keywords:
        if name not in known:
            raise PromptError(
                f"{name} cannot be set for a run that has begun{nearest(name, known)}; there are "
                f"{', '.join(known)}"
            )


def setting_defaults() -> dict[str, object]:
    """Return the defaults of all settings, for signatures that list them."""
    return {
        each.name: each.default if each.default_factory is MISSING else each.default_factory()
        for each in fields(RunSettings)
    }
