"""The end of a history in a rendered conversation."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Boundary:
    """The end of the history in a rendered text."""

    before: str | None
    """Text of the messages before the last reply, or of the complete history.

    None if the template changes that text, so that only the placeholder marks the boundary.
    """
    earlier_placeholder: str = ""
    """Placeholder of all replies but the last; empty without placeholders."""
    placeholder: str = ""
    """Placeholder of the last reply; empty without placeholders."""
    stop_text: str | None = ""
    """Text of the token that ended the last reply; None if the reply is closed."""
    ends_by_stop_text: bool = False
    """Whether the rest of the reply, up to the stop text, follows the placeholder."""

    def text_after(self, rendered: str | None) -> str | None:
        """Return the text after the boundary, or None if the boundary is not found."""
        rest = None if rendered is None else self._text_after_before(rendered)
        if rest is None or not self.placeholder:
            return rest
        return rest.partition(self.placeholder)[2] if rest.count(self.placeholder) == 1 else None

    def _text_after_before(self, rendered: str) -> str | None:
        """Return the text after `before`, in which the openings of replies may have changed.

        Some templates put an empty thought before the last reply only.
        """
        if self.before is None:
            return rendered
        if rendered.startswith(self.before):
            return rendered[len(self.before) :]
        if not self.earlier_placeholder:
            return None
        *before, last_before = self.before.split(self.earlier_placeholder)
        *now, last_now = rendered.split(self.earlier_placeholder, len(before))
        alike = len(before) == len(now) and all(
            old.startswith(new) or new.startswith(old) for old, new in zip(before, now, strict=True)
        )
        return last_now[len(last_before) :] if alike and last_now.startswith(last_before) else None

    def already_written(self, closing: str | None, complete: str) -> str:
        """Return the part of the closing that the reply itself wrote, e.g. its stop token."""
        if not self.stop_text:
            return (closing or "") if self.stop_text is None else ""
        if closing is not None and self.stop_text in closing:
            before, stop, _ = closing.rpartition(self.stop_text)
            return before + stop
        before, stop, _ = complete.partition(self.stop_text)
        calls_may_precede = self.ends_by_stop_text and closing is None
        return before + stop if calls_may_precede or not before.strip() else ""
