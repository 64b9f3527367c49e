"""Background documents, and when one reaches the model."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from tokentape.generation.plans.fields import Place, choice, mapping, text

NEVER = "never"
BEFORE_FIRST_TASK = "before_first_task"
BEFORE_LAST_TASK = "before_last_task"
AFTER_CONCLUSIONS = "after_conclusions"
PAUSES = (BEFORE_FIRST_TASK, BEFORE_LAST_TASK, AFTER_CONCLUSIONS)
TIMES = (NEVER, *PAUSES)

_DOCUMENT = "{document}"
_MESSAGE = f"Here is a text to read.\n\n{_DOCUMENT}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    name: str
    text: str

    @classmethod
    def read(cls, value: object, place: Place) -> "Document":
        given = mapping(value, place, ("name", "text"), required=("name", "text"))
        return cls(
            name=text(given["name"], place.at("name")), text=text(given["text"], place.at("text"))
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Background:
    """A document that reaches the model at one time, or never.

    `pauses` are the turns that stand where a document may come, each with what is said where none
    comes: variants of a protocol have the same turns, whenever theirs comes. `message` is what is
    said where it does, with `{document}` in it.
    """

    when: str = NEVER
    document: Document | None = None
    message: str = _MESSAGE
    pauses: Mapping[str, str]

    @classmethod
    def read(cls, value: object, place: Place) -> "Background":
        given = mapping(value, place, ("when", "document", "message", "pauses"))
        when = choice(given.get("when", NEVER), place.at("when"), TIMES)
        fillers = mapping(given.get("pauses", {}), place.at("pauses"), PAUSES)
        pauses = {name: text(said, place.at("pauses").at(name)) for name, said in fillers.items()}
        document = given.get("document")
        read = None if document is None else Document.read(document, place.at("document"))
        if when != NEVER and read is None:
            place.at("document").refuse(f"is missing: something must reach the model {when}")
        message = text(given.get("message", _MESSAGE), place.at("message"))
        if _DOCUMENT not in message:
            place.at("message").refuse(f"has no {_DOCUMENT} in it, where the document is put")
        return cls(when=when, document=read, message=message, pauses=pauses)

    def said(self, pause: str) -> str | None:
        """What is said there: the document, or what stands for it; None where there is no turn."""
        if self.when == pause and self.document is not None:
            return self.message.replace(_DOCUMENT, self.document.text.strip())
        return self.pauses.get(pause)

    def described(self) -> dict[str, Any]:
        return {**asdict(self), "pauses": dict(self.pauses)}
