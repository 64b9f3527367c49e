"""What an application asked, other than the tape has, and its report."""

from dataclasses import dataclass

from tokentape.recorder.escapes import visible
from tokentape.replay.playback.token_places import ShownToken, TokenPlace
from tokentape.replay.run_diff.diff_types import TextDifference

_SHOWN_CHARS = 48


@dataclass(frozen=True, slots=True, kw_only=True)
class PlaybackDifference:
    """The first difference between a recorded request and the one that the application made."""

    turn: int
    round: int
    what: str
    """What differs, such as `the user's message`."""
    text: TextDifference | None = None
    """The first difference of two texts: `a` is recorded, `b` the application's."""
    place: TokenPlace | None = None
    """The token of the recorded prompt at which they part; None if it cannot be said."""
    now_id: int | None = None
    """The application's token there, of a prompt that it gave as ids."""
    recorded: str = ""
    """The recorded value, where it is no text of the prompt."""
    now: str = ""
    """The application's value."""

    def describe(self, run: str) -> str:
        """Return the report: a sentence, and lines that show both sides."""
        lines = [f"turn {self.turn}, round {self.round}: {self._sentence()}"]
        if self.text is not None:
            before = self.text.before[-_SHOWN_CHARS:]
            lines.append(f"  recorded: {_shown(before, self.text.a)}")
            lines.append(f"  now:      {_shown(before, self.text.b)}")
        if self.place is not None:
            lines.append(f"  first token that differs: {self._token(self.place)}")
            lines.append(f"  tokens there: {_around(self.place)}")
        return "\n".join([*lines, f"  tape: {run}"])

    def _sentence(self) -> str:
        if self.recorded or self.now:
            recorded, now = self.recorded or "not there", self.now or "not there"
            return f"{self.what}: recorded {recorded}, now {now}"
        return f"{self.what} is not the recorded one"

    def _token(self, place: TokenPlace) -> str:
        token = place.token
        if token is None and place.first == place.last:
            return f"token {place.first}, where the recorded prompt has ended"
        if token is None:
            return (
                f"one of the tokens {place.first} to {place.last} of the prompt; the recording "
                "does not have their texts"
            )
        now = "" if self.now_id is None else f", now id {self.now_id}"
        if self.text is not None:
            now = f", now {_quoted(self.text.b)}" if self.text.b else ", now the text ends here"
        return f"token {token.index} of the prompt, recorded {_token_text(token)}{now}"


def _shown(before: str, after: str) -> str:
    """Return both sides of the place where two texts part, with a bar between them."""
    end = after[:_SHOWN_CHARS]
    more = "…" if len(after) > _SHOWN_CHARS else ""
    return f"{visible(before)}|{visible(end)}{more}"


def _around(place: TokenPlace) -> str:
    shown = [
        f"[{_token_text(each)}]" if place.first <= each.index <= place.last else _token_text(each)
        for each in place.around
    ]
    return " · ".join(shown)


def _token_text(token: ShownToken) -> str:
    return f"id {token.token_id}" if token.text is None else f"{token.text!r} (id {token.token_id})"


def _quoted(text: str) -> str:
    return repr(text[:16] + ("…" if len(text) > 16 else ""))
