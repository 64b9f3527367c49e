"""Background documents of a plan, and the time at which one reaches the model."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated

from tokentape.generation.tools.validation import InvalidValue, Text, one_of

NEVER = "never"
BEFORE_FIRST_TASK = "before_first_task"
BEFORE_LAST_TASK = "before_last_task"
AFTER_CONCLUSIONS = "after_conclusions"
PAUSES = (BEFORE_FIRST_TASK, BEFORE_LAST_TASK, AFTER_CONCLUSIONS)
TIMES = (NEVER, *PAUSES)

_DOCUMENT = "{document}"
_MESSAGE = f"Here is a text to read.\n\n{_DOCUMENT}"


@dataclass(frozen=True, slots=True, kw_only=True)
class BackgroundDocument:
    """A text for the model to read."""

    name: Text
    text: Text


@dataclass(frozen=True, slots=True, kw_only=True)
class Background:
    """A document that reaches the model in one of three pauses of a plan, or never.

    A pause is a turn. One without the document has a filler message, so that variants of a plan
    have the same turns whenever their document comes.
    """

    when: Annotated[str, one_of(TIMES)] = NEVER
    """The pause in which the document comes."""
    document: BackgroundDocument | None = None
    message: Text = _MESSAGE
    """The user's message with the document, which replaces `{document}` in it."""
    pauses: Mapping[Annotated[str, one_of(PAUSES)], Text] = field(default_factory=dict)
    """Filler messages by pause. A pause without one is a turn only if the document comes there."""

    def __post_init__(self) -> None:
        if self.when != NEVER and self.document is None:
            raise InvalidValue(f"is missing: it is due {self.when}", "document")
        if _DOCUMENT not in self.message:
            raise InvalidValue(f"has no {_DOCUMENT} in it, where the document goes", "message")

    def message_at(self, pause: str) -> str | None:
        """Return the message of a pause; None if the pause is not a turn."""
        if self.when == pause and self.document is not None:
            return self.message.replace(_DOCUMENT, self.document.text.strip())
        return self.pauses.get(pause)
