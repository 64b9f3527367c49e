"""Types of event fields that say how a redactor changes them.

Only numbers, booleans and enumerations need no such type. A class of events with any other field
that declares nothing is refused when the class table is built, so a new field cannot escape
redaction.
"""

import typing
from collections.abc import Iterator, Mapping
from dataclasses import fields
from enum import Enum, auto
from typing import Annotated, Any


class Redact(Enum):
    """How a redactor changes a field; see `recorder.redaction`."""

    NOTHING = auto()
    """Not at all: a word of tokentape's own, a digest, or counts."""
    TEXT = auto()
    """Rewrite the text, or each of several."""
    VALUES = auto()
    """Rewrite every text and number of a JSON value."""
    SETTINGS = auto()
    """Rewrite every text of a JSON value; withhold settings that are token ids."""
    TOKEN_IDS = auto()
    """Record 0 for each token id."""
    TOP_TOKENS = auto()
    """Record none."""
    PAYLOAD = auto()
    """Record the sha256 of the redacted blob."""
    PAYLOAD_BYTES = auto()
    """Record the size of the redacted blob."""
    PROMPT = auto()
    """Rewrite the prompt as a whole, and derive the field from it."""


Label = Annotated[str, Redact.NOTHING]
Sha256 = Annotated[str, Redact.NOTHING]
Counts = Annotated[tuple[int, ...], Redact.NOTHING]
Text = Annotated[str, Redact.TEXT]
Texts = Annotated[tuple[str, ...], Redact.TEXT]
Values = Annotated[Mapping[str, Any], Redact.VALUES]
Settings = Annotated[Mapping[str, Any], Redact.SETTINGS]
TokenId = Annotated[int, Redact.TOKEN_IDS]
TokenIds = Annotated[tuple[int, ...], Redact.TOKEN_IDS]
PayloadSha256 = Annotated[str, Redact.PAYLOAD]
PayloadBytes = Annotated[int, Redact.PAYLOAD_BYTES]
PromptText = Annotated[str, Redact.PROMPT]


def redaction_rules(cls: type) -> dict[str, Redact]:
    """Return how each field of a class of events is redacted, without those that never change.

    Raise TypeError for a field that may hold text or token ids and declares nothing.
    """
    hints = typing.get_type_hints(cls, include_extras=True)
    rules: dict[str, Redact] = {}
    for field in fields(cls):
        declared = set(_declared(hints[field.name]))
        if len(declared) > 1:
            raise TypeError(f"{cls.__name__}.{field.name} declares several redactions")
        is_id = field.name.endswith(("token_id", "_ids")) or field.name == "ids"
        if not declared and (is_id or not _is_plain(hints[field.name])):
            raise TypeError(
                f"{cls.__name__}.{field.name} declares no redaction: give it a type of "
                "tokentape.recorder.events.fields"
            )
        rules |= dict.fromkeys([field.name], *declared) if declared else {}
    return {name: rule for name, rule in rules.items() if rule is not Redact.NOTHING}


def _declared(hint: Any) -> Iterator[Redact]:
    if typing.get_origin(hint) is Annotated:
        yield from (each for each in hint.__metadata__ if isinstance(each, Redact))
    for inner in typing.get_args(hint):
        yield from _declared(inner)


def _is_plain(hint: Any) -> bool:
    """Return whether the type has only numbers, booleans, None and enumerations."""
    inner = typing.get_args(hint)
    if inner:
        return typing.get_origin(hint) is not tuple and all(map(_is_plain, inner))
    return isinstance(hint, type) and issubclass(hint, int | float | type(None) | Enum)
