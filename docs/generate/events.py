"""The page of the catalogue of events, from their classes."""

import dataclasses
import enum
import inspect
import sys
import typing
from collections.abc import Iterator

from docs.generate.markdown import docstring, field_texts, item, page, prose, type_name, wrapped
from tokentape.recorder.events import EVENT_CLASSES, REDACTION_RULES, Event, Redact
from tokentape.recorder.events.traits import BelongsTo, EventTraits

ABOUT = """Every class of events, with its version, its traits and its fields. [Events](events.md)
explains the stream that they make. A recording of
an older version is read as today's: its events are changed when read, never in the file."""


def events_page() -> str:
    """Return the page."""
    families = [_family(module, classes) for module, classes in families_of_events().items()]
    return page("Catalogue of events", ABOUT, _traits(), *families, _words())


def families_of_events() -> dict[str, list[type[Event]]]:
    """Return the classes of events by the module of their family, in the order of the union."""
    found: dict[str, list[type[Event]]] = {}
    for cls in EVENT_CLASSES.values():
        found.setdefault(cls.__module__, []).append(cls)
    return found


def _traits() -> str:
    traits = [item(name, text) for name, text in field_texts(EventTraits).items()]
    turns = [item(each.lower(), text) for each, text in field_texts(BelongsTo).items()]
    redacted = [item(_words_of(Redact[each]), text) for each, text in _members(Redact).items()]
    return "\n".join(
        [
            "## Traits",
            "",
            "A class declares how its events are treated:",
            "",
            *traits,
            "",
            "`belongs_to` is one of:",
            "",
            *turns,
            "",
            "A redactor changes a field in one of these ways:",
            "",
            *redacted,
        ]
    )


def _members(cls: type[enum.Enum]) -> dict[str, str]:
    return {name: text for name, text in field_texts(cls).items() if name in cls.__members__}


def _words_of(redact: Redact) -> str:
    return redact.name.lower().replace("_", " ")


def _family(module: str, classes: list[type[Event]]) -> str:
    about = inspect.getdoc(sys.modules[module]) or ""
    name = module.rpartition(".")[2].capitalize()
    return "\n\n".join([f"## {name}", prose(wrapped(about)), *map(_entry, classes)])


def _entry(cls: type[Event]) -> str:
    hints = typing.get_type_hints(cls)
    rules, texts = REDACTION_RULES[cls], field_texts(cls)
    lines = []
    for field in dataclasses.fields(cls):
        text = texts.get(field.name, "")
        if field.name in rules:
            text = f"{text} *Redacted: {_words_of(rules[field.name])}.*".strip()
            lines.append(_raw_item(field.name, text, type_name(hints[field.name])))
        else:
            lines.append(item(field.name, text, type_name(hints[field.name])))
    return "\n\n".join(
        [f"### {cls.__name__}", docstring(cls), " · ".join(_labels(cls)), "\n".join(lines)]
    )


def _raw_item(name: str, text: str, kind: str) -> str:
    """Return an item whose remark in italics stays markup."""
    before, mark, remark = text.rpartition("*Redacted:")
    shown = item(name, before.strip(), kind)
    return f"{shown} {mark}{remark}" if before else f"{shown}: {mark}{remark}"


def _labels(cls: type[Event]) -> Iterator[str]:
    """Yield the version of a class and the traits that are not the default."""
    older = ", ".join(str(each) for each in range(1, cls.version))
    yield f"Version {cls.version}" + (f" ({older} is read as this one)" if older else "")
    for field in dataclasses.fields(EventTraits):
        value = getattr(cls.traits, field.name)
        if value != field.default:
            word = value.name.lower() if isinstance(value, enum.Enum) else value
            yield f"`{field.name}`" if value is True else f"`{field.name}`: `{word}`"


def _words() -> str:
    """Return the enumerations that fields have, with their values."""
    found = {
        hint.__name__: hint
        for cls in EVENT_CLASSES.values()
        for field in typing.get_type_hints(cls).values()
        for hint in (field, *typing.get_args(field))
        if isinstance(hint, type) and issubclass(hint, enum.Enum)
    }
    entries = []
    for name in sorted(found):
        values = [
            item(found[name][each].value or '""', text)
            for each, text in _members(found[name]).items()
        ]
        entries.append("\n".join([f"### {name}", "", docstring(found[name]), "", *values]))
    return "\n\n".join(["## Values", *entries])
