"""Tasks: what is asked of the model, and which tools the experimenter runs for it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from transformers import GenerationConfig

from tokentape.generation.plans.fields import Place, flag, mapping, plain, several, text
from tokentape.generation.tools.runner import ToolCall

_LENGTHS = ("max_new_tokens", "max_length")
_SETTINGS = tuple(
    name
    for name in vars(GenerationConfig())  # type: ignore[no-untyped-call]
    if not name.startswith("_") and name not in (*_LENGTHS, "transformers_version")
)


def read_sampling(value: object, place: Place) -> dict[str, Any]:
    """Settings of `generate`; the length is one of the limits."""
    if isinstance(value, Mapping):
        for name in value:
            if name in _LENGTHS:
                place.at(name).refuse("is no sampling: give limits.max_new_tokens")
            if name not in _SETTINGS:
                place.at(str(name)).refuse(
                    "is no setting of generate; temperature, top_p, top_k, min_p, do_sample and "
                    "repetition_penalty are"
                )
    return {name: plain(each, place.at(name)) for name, each in _mapping(value, place).items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskTurn:
    """A message, and calls of tools whose results stand beneath it.

    `concludes` where the model draws its conclusions: a document may reach it behind that.
    """

    message: str
    tool_calls: tuple[ToolCall, ...] = ()
    sampling: Mapping[str, Any] = field(default_factory=dict)
    concludes: bool = False

    @classmethod
    def read(cls, value: object, place: Place) -> "TaskTurn":
        if isinstance(value, str):
            return cls(message=text(value, place))
        fields = ("message", "tool_calls", "sampling", "concludes")
        given = mapping(value, place, fields, required=("message",))
        return cls(
            message=text(given["message"], place.at("message")),
            tool_calls=several(given.get("tool_calls", ()), place.at("tool_calls"), _tool_call),
            sampling=read_sampling(given.get("sampling", {}), place.at("sampling")),
            concludes=flag(given.get("concludes", False), place.at("concludes")),
        )

    def described(self) -> dict[str, Any]:
        calls = [{"name": call.name, "arguments": dict(call.arguments)} for call in self.tool_calls]
        return {
            "message": self.message,
            "tool_calls": calls,
            "sampling": dict(self.sampling),
            "concludes": self.concludes,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    title: str
    turns: tuple[TaskTurn, ...]
    sampling: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, value: object, place: Place) -> "Task":
        given = mapping(value, place, ("title", "turns", "sampling"), required=("title", "turns"))
        return cls(
            title=text(given["title"], place.at("title")),
            turns=several(given["turns"], place.at("turns"), TaskTurn.read, least=1),
            sampling=read_sampling(given.get("sampling", {}), place.at("sampling")),
        )

    def described(self) -> dict[str, Any]:
        turns = [turn.described() for turn in self.turns]
        return {"title": self.title, "turns": turns, "sampling": dict(self.sampling)}


def _tool_call(value: object, place: Place) -> ToolCall:
    given = mapping(value, place, ("name", "arguments"), required=("name",))
    arguments = plain(_mapping(given.get("arguments", {}), place.at("arguments")), place)
    return ToolCall(name=text(given["name"], place.at("name")), arguments=arguments)


def _mapping(value: object, place: Place) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        place.refuse("is a mapping of names to values")
    for name in value:
        if not isinstance(name, str):
            place.refuse(f"has a name that is no text: {name!r}")
    return value
