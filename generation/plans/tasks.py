"""The tasks of a plan: the user's messages, and the tools that are run for the model."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from tokentape.generation.setting_names import setting_names
from tokentape.generation.tools.tool_call import ToolCall
from tokentape.generation.tools.validation import InvalidValue, JsonValue, Text, check_encodable
from tokentape.recorder.near_names import nearest

_LENGTHS = ("max_new_tokens", "max_length")
_COMMON = ("temperature", "top_p", "top_k", "min_p", "do_sample", "repetition_penalty")
"""Settings of every release of transformers, which takes a second to import."""


def check_sampling(settings: Mapping[str, Any]) -> Mapping[str, Any]:
    """Check that these are settings of `generate`, and not of the length of a reply."""
    for name in settings:
        if name in _LENGTHS:
            raise InvalidValue("is not a sampling setting: use limits.max_new_tokens", name)
        if name not in _COMMON and name not in setting_names():
            hint = nearest(name, (*_COMMON, *setting_names()))
            raise InvalidValue(
                f"is not a setting of generate{hint}; temperature, top_p, top_k, min_p, do_sample "
                "and repetition_penalty are",
                name,
            )
    return settings


Sampling = Annotated[Mapping[str, JsonValue], check_sampling]


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskTurn:
    """A message of a task. In a plan's file a turn may be written as its message alone."""

    message: Text
    tool_calls: tuple[ToolCall, ...] = ()
    """Calls that are run for the model; their results follow the message."""
    sampling: Sampling = field(default_factory=dict)
    """Settings of `generate` that override those of the task and of the plan."""
    reply_prefix: Annotated[str, check_encodable] = ""
    """Text with which the reply begins; see `Investigation.chat`."""
    concludes: bool = False
    """Whether the model draws its conclusions in this turn; see `Background`."""

    @staticmethod
    def expand(value: object) -> object:
        """Return the fields of a turn that is written as its message."""
        return {"message": value} if isinstance(value, str) else value


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanTask:
    """Turns with a common title."""

    title: Text
    turns: tuple[TaskTurn, ...]
    sampling: Sampling = field(default_factory=dict)
    """Settings of `generate` that override those of the plan."""

    def __post_init__(self) -> None:
        if not self.turns:
            raise InvalidValue("is empty", "turns")
