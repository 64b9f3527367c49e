"""Reading fields of a protocol: a mistake is one line with the file, the field, and the rule."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NoReturn, TypeVar

from tokentape.generation.errors import PromptError

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Place:
    """Where something stands: the file, and the field's path in it, `tasks.2.title`."""

    file: str
    path: str = ""

    def at(self, name: str | int) -> "Place":
        return replace(self, path=f"{self.path}.{name}" if self.path else str(name))

    def refuse(self, rule: str) -> NoReturn:
        raise PromptError(f"{self.file}: {self.path or 'the protocol'} {rule}")


def mapping(
    value: object, place: Place, names: Iterable[str], *, required: Iterable[str] = ()
) -> dict[str, Any]:
    """A mapping that has no fields but these, and the required ones."""
    known, needed = tuple(names), tuple(required)
    if not isinstance(value, Mapping):
        place.refuse(f"has fields ({', '.join(known)}), and is {_shown(value)}")
    for name in value:
        if name not in known:
            place.at(str(name)).refuse(f"is no field; there are {', '.join(known)}")
    for name in needed:
        if name not in value:
            place.at(name).refuse("is missing")
    return dict(value)


def text(value: object, place: Place, *, empty: bool = False) -> str:
    if not isinstance(value, str):
        place.refuse(f"is text, not {_shown(value)}; put it in quotes")
    if not empty and not value.strip():
        place.refuse("is empty")
    try:
        value.encode()
    except UnicodeEncodeError:
        place.refuse("holds half a surrogate pair, which is no text")
    return value


def whole(value: object, place: Place, *, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value < 2**63:
        place.refuse(f"is a whole number of at least {least}, not {_shown(value)}")
    return value


def choice(value: object, place: Place, allowed: Sequence[str]) -> str:
    if not isinstance(value, str) or value not in allowed:
        place.refuse(f"is one of {', '.join(allowed)}, not {_shown(value)}")
    return value


def flag(value: object, place: Place) -> bool:
    if not isinstance(value, bool):
        place.refuse(f"is true or false, not {_shown(value)}")
    return value


def several(
    value: object, place: Place, read: Callable[[Any, Place], T], *, least: int = 0
) -> tuple[T, ...]:
    """A list, each item read; items count from one in the places of errors."""
    if not isinstance(value, Sequence) or isinstance(value, str | bytes):
        place.refuse(f"is a list, not {_shown(value)}")
    if len(value) < least:
        place.refuse("is empty")
    return tuple(read(each, place.at(number)) for number, each in enumerate(value, 1))


def plain(value: object, place: Place) -> Any:
    """What JSON can hold, which is what a recording can."""
    try:
        return json.loads(json.dumps(value, allow_nan=False))
    except (TypeError, ValueError, RecursionError):
        place.refuse("is not plain: texts, numbers, true, false, lists and mappings are")


def _shown(value: object) -> str:
    if value is None:
        return "nothing"
    shown = repr(value)
    return shown if len(shown) <= 60 else f"{shown[:60]}…"
