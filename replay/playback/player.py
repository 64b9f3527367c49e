"""The position of a playback in its runs, and what it does about a difference."""

import threading
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

from tokentape.recorder.escapes import visible
from tokentape.recorder.near_names import nearest
from tokentape.recorder.short_forms import counted
from tokentape.replay.playback.differences import PlaybackDifference
from tokentape.replay.playback.errors import PlaybackMismatchError, PlaybackWarning
from tokentape.replay.playback.recorded_turns import RecordedRound, RecordedRun, RecordedTurn
from tokentape.replay.results.errors import ReplayError

Place = tuple[RecordedRun, RecordedTurn, RecordedRound]
"""A round, with its run and turn."""
PlaybackMode = Literal["strict", "warn", "passthrough"]
PLAYBACK_MODES = get_args(PlaybackMode)

_HINT = (
    "if the change is meant: record the tape again, or play it in the mode 'warn' (the recorded "
    "reply) or 'passthrough' (the model's reply from here on)"
)


def check_mode(mode: str) -> PlaybackMode:
    """Return the mode. Raise ReplayError for an unknown one."""
    for known in PLAYBACK_MODES:
        if mode == known:
            return known  # type: ignore[no-any-return]
    choices = ", ".join(PLAYBACK_MODES)
    raise ReplayError(f"the mode is one of {choices}, not {mode!r}{nearest(mode, PLAYBACK_MODES)}")


@dataclass(slots=True)
class Player:
    """The runs of a playback, and which of their rounds were played."""

    runs: Sequence[RecordedRun]
    where: str
    mode: PlaybackMode
    _taken: set[str] = field(default_factory=set)
    _played: set[tuple[str, int, int]] = field(default_factory=set)
    _lock: threading.RLock = field(default_factory=threading.RLock)

    def take_run(self, name: str) -> RecordedRun | None:
        """Return the next run that was not begun, the next of that name if one has it.

        If the application begins more runs than there are, return None where the model is asked,
        and raise PlaybackMismatchError otherwise.
        """
        __tracebackhide__ = True
        with self._lock:
            free = [each for each in self.runs if each.run_id not in self._taken]
            named = [each for each in free if each.started.name == name]
            if not free and self.asks_model:
                return None
            if not free:
                raise PlaybackMismatchError(
                    f"the application begins one run more than {visible(self.where)} has: "
                    f"{counted(len(self.runs), 'run')}, all of which were begun"
                )
            chosen = (named or free)[0]
            self._taken.add(chosen.run_id)
        return chosen

    def mark(
        self, run: RecordedRun, turn: RecordedTurn, round_: RecordedRound | None = None
    ) -> None:
        """Note that a turn, or one of its rounds, was played."""
        rounds = turn.rounds if round_ is None else (round_,)
        with self._lock:
            self._played.update((run.run_id, turn.number, each.number) for each in rounds)

    def give_up(self, run: RecordedRun) -> None:
        """Note that the rest of a run is not played, since the model goes on in its place."""
        for turn in run.turns:
            self.mark(run, turn)

    def is_played(self, run: RecordedRun, turn: RecordedTurn, round_: RecordedRound) -> bool:
        """Return whether a round was played."""
        return (run.run_id, turn.number, round_.number) in self._played

    def unused(self) -> list[tuple[RecordedRun, RecordedTurn]]:
        """Return the turns of which a round was not played, in order."""
        return [
            (run, turn)
            for run in self.runs
            for turn in run.turns
            if not all(self.is_played(run, turn, each) for each in turn.rounds)
        ]

    def claim(self, find: Callable[[Sequence[Place]], int | None]) -> Place | None:
        """Mark and return the round that `find` chooses of those not played, by its index."""
        with self._lock:
            left = self.left()
            index = find(left)
            if index is None:
                return None
            run, turn, round_ = left[index]
            self.mark(run, turn, round_)
            return run, turn, round_

    def left(self) -> list[Place]:
        """Return the rounds that were not played, in order."""
        return [
            (run, turn, round_)
            for run in self.runs
            for turn, round_ in run.rounds()
            if not self.is_played(run, turn, round_)
        ]

    @property
    def asks_model(self) -> bool:
        """Whether a request that differs goes to the model."""
        return self.mode == "passthrough"

    def report(self, difference: PlaybackDifference, run: str) -> None:
        """Warn of a difference, or raise PlaybackMismatchError for it."""
        __tracebackhide__ = True
        text = difference.describe(run)
        if self.mode == "warn":
            warnings.warn(text, PlaybackWarning, stacklevel=4)
            return
        raise PlaybackMismatchError(f"{text}\n{_HINT}", difference)

    def report_withheld(self, run: RecordedRun) -> None:
        """Warn that the texts of a redacted run cannot be compared, or raise ReplayError."""
        __tracebackhide__ = True
        fault = (
            f"{run.described} was redacted: what the model was told is not on the tape, and "
            "prompts cannot be compared with it"
        )
        if self.mode != "warn":
            raise ReplayError(
                f"{fault}; give the redactor= that it was recorded with, or play it in the mode "
                "'warn'"
            )
        warnings.warn(f"{fault}; settings and calls are", PlaybackWarning, stacklevel=4)

    def check_all_used(self) -> None:
        """Raise PlaybackMismatchError if a recorded turn was not played."""
        __tracebackhide__ = True
        unused = self.unused()
        if not unused:
            return
        of_run: dict[str, list[int]] = {}
        for run, turn in unused:
            of_run.setdefault(run.described, []).append(turn.number)
        listed = "; ".join(
            f"{'turn' if len(turns) == 1 else 'turns'} {', '.join(map(str, turns))} of {name}"
            for name, turns in of_run.items()
        )
        raise PlaybackMismatchError(f"the application did not ask for {listed}")
