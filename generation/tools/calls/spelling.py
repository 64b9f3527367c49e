"""A spelling of tool calls: the literal texts around a name and its arguments."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Any

from tokentape.generation.errors import ToolError
from tokentape.generation.tools.calls.notation import Notation


class Syntax(StrEnum):
    """What a call consists of."""

    OBJECT = "object"
    """An object that has the name and the arguments."""
    NAMED_OBJECT = "named_object"
    """A name, and an object of arguments after it."""
    PAIRS = "pairs"
    """A name, and pairs of an argument's name and its value after it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CallSpelling:
    """How tool calls are written: a syntax and the literal texts in it.

    A literal may contain `⟨id⟩`, for the id of a call. Raise ToolError if no literal shows where a
    call begins.
    """

    syntax: Syntax
    section_open: str = ""
    """Before the first of several calls; empty if calls have no common section."""
    section_close: str = ""
    open: str = ""
    """Before a call."""
    close: str = ""
    """After a call."""
    between: str = ""
    """Between two calls."""
    notation: Notation = Notation.JSON
    """Of objects and values."""
    quote: str = '"'
    """Around the strings of the bare notation."""
    name_path: tuple[str, ...] = ("name",)
    """The keys that lead to the name in an object; empty if the name is the object's only key."""
    arguments_path: tuple[str, ...] = ("arguments",)
    """The keys that lead to the arguments in an object; not used if the name is the only key."""
    array: bool = False
    """Whether objects are written in an array."""
    name_close: str = ""
    """Between the name and the arguments."""
    argument_open: str = ""
    """Before the name of an argument."""
    argument_between: str = ""
    """Between two arguments."""
    value_open: str = ""
    """Between an argument's name and its value."""
    value_close: str = ""
    text_open: str | None = None
    """As `value_open`, before a string of plain text; None if strings are in the notation.

    If it equals `value_open`, values of all types are plain text, and the tool's schema decides.
    """
    text_close: str = ""
    thinking_open: str = ""
    """Begins a thinking block, whose calls are ignored; empty if it is not known."""
    thinking_close: str = ""

    def __post_init__(self) -> None:
        named = self.open.strip() or self.section_open.strip() or self.name_close.strip()
        if self.syntax is not Syntax.OBJECT and not named:
            raise ToolError("a spelling of calls needs an `open` or a `name_close`")

    @property
    def untyped(self) -> bool:
        """Whether values of all types are plain text."""
        return self.text_open is not None and self.text_open == self.value_open

    def to_record(self) -> dict[str, Any]:
        """Return the fields that differ from their defaults, as values that JSON can hold."""
        record: dict[str, Any] = {}
        for each in fields(self):
            value = getattr(self, each.name)
            if value != each.default:
                record[each.name] = list(value) if isinstance(value, tuple) else value
        return {**record, "syntax": str(self.syntax), "notation": str(self.notation)}

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> "CallSpelling":
        """Return the spelling that `to_record` wrote. Raise ToolError for any other mapping."""
        known = {each.name: each.default for each in fields(cls)}
        values: dict[str, Any] = {}
        for name, value in record.items():
            if name not in known:
                raise ToolError(f"a spelling of calls has no {name!r}; it has {', '.join(known)}")
            values[name] = _checked(name, value, known[name])
        if "syntax" not in values:
            raise ToolError(f"a spelling of calls needs a syntax: {', '.join(Syntax)}")
        return cls(**values)


def _checked(name: str, value: Any, default: Any) -> Any:
    """Return a field's value with its type. Raise ToolError for a value of another type."""
    choices = {"syntax": Syntax, "notation": Notation}.get(name)
    if choices is not None and value in list(choices):
        return choices(value)
    if choices is not None:
        raise ToolError(f"{name} must be one of {', '.join(choices)}, not {value!r}")
    if isinstance(default, tuple) and isinstance(value, list | tuple):
        value = tuple(value)
        if all(isinstance(each, str) for each in value):
            return value
    kind = bool if isinstance(default, bool) else str
    if isinstance(default, tuple) or not isinstance(value, kind):
        raise ToolError(f"{name} of a spelling of calls cannot be {value!r}")
    return value
