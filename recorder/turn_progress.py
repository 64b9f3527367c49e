"""How far a run is: the tokens of its turn and their speed, and the time that is left."""

from collections.abc import Mapping
from typing import Any

from tokentape.recorder.events import Event, TokenSampled, TurnFinished, TurnStarted


class TurnProgress:
    """Counts the tokens and turns of a run, and estimates the time that is left.

    Before a turn has finished, each turn is taken to be as long as its settings allow, and the time
    is `at most`; then as long as the finished ones were, and it is `about`. Without `turns_total`
    only the current turn is estimated.
    """

    def __init__(self, turns_total: int | None = None) -> None:
        self.turn: int | None = None
        """The turn in progress; None between turns."""
        self._turns_total = turns_total
        self._first_step = self._tokens = self._timed_tokens = 0
        self._tokens_max: int | None = None
        self._token_us = 0
        self._turn_us: list[int] = []

    def event(self, event: Event) -> None:
        """Take note of the next event of the run."""
        if isinstance(event, TurnStarted):
            self.start_turn(event.turn, event.first_step, event.sampling)
        elif isinstance(event, TokenSampled):
            self.token(event.duration_us)
        elif isinstance(event, TurnFinished):
            self.finish_turn(event.duration_us)

    def start_turn(self, turn: int, first_step: int, settings: Mapping[str, Any]) -> None:
        """Begin a turn, or the next round of it, which continues after `first_step` tokens."""
        most = settings.get("max_new_tokens")
        self.turn, self._first_step = turn, first_step
        self._tokens = self._timed_tokens = self._token_us = 0
        self._tokens_max = first_step + most if isinstance(most, int) else None

    def token(self, duration_us: int) -> None:
        """Count a token of the turn, which took so many microseconds.

        The first one of a round is not timed: its forward was the prefill.
        """
        self._tokens += 1
        if self._tokens > 1:
            self._timed_tokens += 1
            self._token_us += duration_us

    def finish_turn(self, duration_us: int) -> None:
        """End the turn, which took so many microseconds."""
        self.turn = None
        self._turn_us.append(duration_us)

    @property
    def place(self) -> str:
        """The turn in progress, such as `turn 4/20`."""
        total = "" if self._turns_total is None else f"/{self._turns_total}"
        return f"turn {self.turn or ''}{total}"

    @property
    def tokens(self) -> str:
        """The tokens of the turn, their speed, and the time left, as far as they are known."""
        if self.turn is None:
            return ""
        count = self._first_step + self._tokens
        most = "" if self._tokens_max is None else f"/{self._tokens_max:,}"
        parts = [f"{count:,}{most} tokens"]
        if self._token_us:
            parts.append(f"{self._timed_tokens / self._token_us * 1e6:.1f} tokens/s")
        left_us = self.left_us()
        if left_us is not None:
            bound = "about" if self._turns_total and self._turn_us else "at most"
            parts.append(f"{bound} {_clock(left_us)} left")
        return ", ".join(parts)

    def left_us(self) -> int | None:
        """Return the estimate of the time left in microseconds; None before the first token."""
        if self.turn is None or not self._token_us or self._tokens_max is None:
            return None
        per_token_us = self._token_us / self._timed_tokens
        left_tokens = max(self._tokens_max - self._first_step - self._tokens, 0)
        turn_left_us = left_tokens * per_token_us
        if self._turns_total is None:
            return round(turn_left_us)
        per_turn_us = self._tokens_max * per_token_us
        if self._turn_us:
            per_turn_us = sum(self._turn_us) / len(self._turn_us)
            # This turn may be longer than the average: while it runs, one more token is expected.
            expected_us = max(per_turn_us - self._token_us, per_token_us)
            turn_left_us = min(turn_left_us, expected_us)
        turns_left = max(self._turns_total - self.turn, 0)
        return round(turn_left_us + turns_left * per_turn_us)


def _clock(duration_us: int) -> str:
    """Return a duration as `0:09`, or `1:02:09` from an hour on."""
    minutes, seconds = divmod(-(-duration_us // 1_000_000), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
