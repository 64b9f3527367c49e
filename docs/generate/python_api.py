"""The page of the public names of `tokentape`, from its stub file and the docstrings."""

import ast
import dataclasses
import functools
import inspect
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tokentape as tt
from docs.generate.markdown import docstring, field_texts, item, page, signature, type_name
from tokentape.replay import Rebuilt
from tokentape.replay.options import CheckOptions
from tokentape.replay.run_diff.diff_types import Diff
from tokentape.store import DatabaseStore, Integrity, ParquetStore
from tokentape.store.source import Source

ABOUT = """All names of `import tokentape as tt`. Importing it is cheap: a name loads what it needs
when it is first used. The examples are run by the tests, with a tiny model `lm`, a `store` and the
`run_id` of a run of three turns in it."""

ROOMS = {
    "generation": "Models, runs and tools",
    "recorder": "Recordings",
    "replay": "Replays",
    "store": "Stores, frames and copies",
}
RETURNED = (Source, DatabaseStore, ParquetStore, Integrity, Rebuilt, CheckOptions, Diff)
"""Classes that are no public names, and whose methods and fields are used all the same.

`Source` is what every store has.
"""


def api_page() -> str:
    """Return the page."""
    sections = [
        "\n\n".join([f"## {ROOMS[room]}", *_entries(names)]) for room, names in _names().items()
    ]
    returned = "\n\n".join(["## Returned objects", *map(_entry_of_class, RETURNED)])
    return page("Python API", ABOUT, *sections, returned)


def _names() -> dict[str, list[str]]:
    """Return the public names by the room that they are in, as the stub file lists them."""
    assert tt.__file__ is not None
    stub = ast.parse(Path(tt.__file__).with_suffix(".pyi").read_text(encoding="utf-8"))
    rooms: dict[str, list[str]] = {}
    for node in stub.body:
        if isinstance(node, ast.ImportFrom):
            room = (node.module or "").partition(".")[0]
            rooms.setdefault(room, []).extend(each.name for each in node.names)
    return rooms


def _entries(names: list[str]) -> Iterator[str]:
    """Yield the entry of each name; errors come last, in one list."""
    errors = [name for name in names if _is_error(getattr(tt, name))]
    for name in sorted(set(names) - set(errors), key=lambda name: (name.lower(), name)):
        found = getattr(tt, name)
        if isinstance(found, type):
            yield _entry_of_class(found)
        elif inspect.isfunction(found):
            yield "\n\n".join([f"### {name}", signature(name, found), docstring(found)])
        elif inspect.ismodule(found):
            yield _entry_of_module(name, found)
        else:
            yield f"### {name}\n\nThe type `{type_name(found)}`."
    if errors:
        lines = [item(each, _first_sentences(getattr(tt, each))) for each in sorted(errors)]
        yield "\n".join(["### Errors", "", *lines])


def _entry_of_module(name: str, module: types.ModuleType) -> str:
    parts = [f"### {name}", docstring(module)]
    for each in module.__all__:
        function = getattr(module, each)
        parts += [f"#### {name}.{each}", signature(f"{name}.{each}", function), docstring(function)]
    return "\n\n".join(parts)


def _is_error(found: object) -> bool:
    return isinstance(found, type) and issubclass(found, BaseException)


def _first_sentences(found: object) -> str:
    return (inspect.getdoc(found) or "").partition("\n\n")[0]


def _entry_of_class(cls: type) -> str:
    parts = [f"### {cls.__name__}"]
    is_called = not (dataclasses.is_dataclass(cls) or _is_enum(cls) or _is_protocol(cls))
    if is_called:
        parts.append(signature(cls.__name__, cls))
    parts += [docstring(cls), "\n".join(_fields(cls))]
    parts += [_entry_of_method(cls, name, member) for name, member in _methods(cls)]
    return "\n\n".join(part for part in parts if part)


def _is_enum(cls: type) -> bool:
    return hasattr(cls, "__members__")


def _is_protocol(cls: type) -> bool:
    return bool(getattr(cls, "_is_protocol", False))


def _fields(cls: type) -> Iterator[str]:
    """Yield the fields, members and properties of a class."""
    if _is_enum(cls):
        for member in cls:  # type: ignore[attr-defined]
            yield item(member.value, getattr(member, "meaning", ""))
    elif dataclasses.is_dataclass(cls):
        hints = typing.get_type_hints(cls)
        for field in dataclasses.fields(cls):
            if not field.name.startswith("_"):
                text = field_texts(cls).get(field.name, "")
                yield item(field.name, text, type_name(hints[field.name]))
    for base in _own_bases(cls):
        for name, member in vars(base).items():
            is_property = isinstance(member, property | functools.cached_property)
            if is_property and not name.startswith("_") and inspect.getdoc(member):
                yield item(name, inspect.getdoc(member) or "")


def _own_bases(cls: type) -> list[type]:
    """Return the class and those of its bases that are ours."""
    return [each for each in cls.__mro__ if each.__module__.startswith("tokentape.")]


def _methods(cls: type) -> Iterator[tuple[str, Any]]:
    """Yield the public methods, each once, the class's own first.

    Those without a docstring, or whose docstring refers to a protocol, are left out.
    """
    seen: set[str] = set()
    for base in _own_bases(cls):
        for name, member in vars(base).items():
            called = member.__func__ if isinstance(member, classmethod | staticmethod) else member
            if name.startswith("_") or name in seen or not inspect.isfunction(called):
                continue
            seen.add(name)
            if not (inspect.getdoc(called) or "See ").startswith("See "):
                yield name, member


def _entry_of_method(cls: type, name: str, member: Any) -> str:
    full = f"{cls.__name__}.{name}"
    called = member.__func__ if isinstance(member, classmethod | staticmethod) else member
    shown = signature(full, called, without_first=not isinstance(member, staticmethod))
    return "\n\n".join([f"#### {full}", shown, docstring(called)])
