"""What came of each turn, asked of the child once a tape and remembered."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokentape.plugin.child import ChildDied, ReplayChild, ReplayError
from tokentape.plugin.settings import Settings

_MEASURES = ("verdict", "causes", "margin_max", "logprob_difference_max")


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedRun:
    """A run in a tape: its place there, its name, and the turns that hold tokens."""

    place: int
    name: str
    turns: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """Of a turn; `failure` is empty where it passes. `measures` are names and values for JUnit."""

    failure: str
    measures: tuple[tuple[str, object], ...]


class Replays:
    """Answers for turns. A tape is replayed when its first turn is asked for.

    `verify` checks all turns of a tape in one forward, and an update is of a whole tape;
    `regenerate` takes as long as generating did, and is asked turn by turn.
    """

    def __init__(self, settings: Settings, folder: Path) -> None:
        self._settings = settings
        self._folder = folder
        self._child = ReplayChild(folder)
        self._answers: dict[tuple[object, ...], dict[str, Any]] = {}
        self._deaths: dict[Path, int] = {}
        self._told: dict[tuple[Path, int], str] = {}

    def list_runs(self, tape: Path) -> list[ListedRun]:
        """Raises ReplayError and ChildDied."""
        answer = self._child.ask(do="list", tape=self._name(tape))
        return [
            ListedRun(place=place, name=run["name"], turns=tuple(run["turns"]))
            for place, run in enumerate(answer["runs"])
        ]

    def outcome(self, tape: Path, run: int, turn: int) -> Outcome:
        """What a fault of the whole recording is, only its first outcome says in full."""
        try:
            answer = self._answer(tape, run, turn)
        except (ReplayError, ChildDied) as error:
            return Outcome(failure=str(error), measures=())
        found = answer["runs"].get(str(run))
        if found is None:
            return Outcome(failure=f"{self._name(tape)} has fewer runs than before", measures=())
        of_turn = found["turns"].get(str(turn), {})
        known = {name: of_turn.get(name) for name in _MEASURES}
        measures = [(name, value) for name, value in known.items() if value not in (None, "")]
        if answer["updated"]:
            measures.append(("updated", answer["updated"]))
        failure = self._whole_failure(tape, run, turn, found) or of_turn.get("failure", "")
        if not failure and not of_turn:
            failure = f"{self._name(tape)} has no turn {turn} any more"
        return Outcome(failure=failure, measures=tuple(measures))

    def close(self) -> None:
        self._child.close()

    def _answer(self, tape: Path, run: int, turn: int) -> dict[str, Any]:
        asked = self._settings
        by_turn = asked.mode == "regenerate" and not asked.update
        key = (tape, run, turn) if by_turn else (tape,)
        if key not in self._answers:
            if self._deaths.get(tape, 0) > 1:
                raise ReplayError("not replayed: the process that replays died of it twice")
            try:
                self._answers[key] = self._child.ask(
                    do="replay",
                    tape=self._name(tape),
                    run=run if by_turn else None,
                    turns=[turn] if by_turn else None,
                    mode=asked.mode,
                    model=asked.model,
                    floor=asked.floor,
                    ignore=list(asked.ignore),
                    allow_drift=asked.allow_drift,
                    update=asked.update,
                )
            except ChildDied:
                self._deaths[tape] = self._deaths.get(tape, 0) + 1
                raise
            except ReplayError as error:
                self._answers[key] = {"refused": str(error)}
        answer = self._answers[key]
        if "refused" in answer:
            raise ReplayError(answer["refused"])
        return answer

    def _whole_failure(self, tape: Path, run: int, turn: int, found: dict[str, Any]) -> str:
        failure: str = found["failure"]
        if not failure:
            return ""
        first = self._told.setdefault((tape, run), f"turn {turn}")
        if first == f"turn {turn}":
            return failure
        return f"{found['summary']} (the whole recording: see {first})"

    def _name(self, tape: Path) -> str:
        try:
            return os.path.relpath(tape, self._folder)
        except ValueError:  # another drive
            return str(tape)
