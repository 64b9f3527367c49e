"""The outcome of each turn: a tape is replayed once by the child, and its answer is cached."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokentape.plugin.child import ChildDiedError, ReplayChild, RequestError
from tokentape.plugin.printable import printable
from tokentape.plugin.settings import Settings

_MEASURES = ("verdict", "causes", "margin_max", "logprob_difference_max")
_GROUP_TAPES = 32
"""Tapes that are verified together, at most."""
_GROUP_BYTES = 2**20
"""Their size: long recordings gain nothing, and the first result should not wait for many."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedRun:
    """A run in a tape: its index (oldest first), its name, and its turns that have tokens."""

    index: int
    name: str
    turns: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The outcome of a turn."""

    failure: str
    """The report of a turn that does not pass, or an empty string."""
    measures: tuple[tuple[str, object], ...]
    """Names and values for the properties of a JUnit test case."""


class Replays:
    """The outcomes of turns. A tape is replayed when the outcome of its first turn is requested.

    `verify` checks all turns of a tape in one forward, and an update replaces a tape as a whole;
    `regenerate` takes as long as generation did, so it is requested turn by turn. Small tapes are
    verified together with the next ones that are expected.
    """

    def __init__(self, settings: Settings, folder: Path) -> None:
        self._settings = settings
        self._folder = folder
        self._child = ReplayChild(folder)
        self._answers: dict[tuple[object, ...], dict[str, Any]] = {}
        self._deaths: dict[Path, int] = {}
        self._expected: list[Path] = []
        self._first_reports: dict[tuple[Path, int], str] = {}

    def expect(self, tapes: Iterable[Path]) -> None:
        """Say whose outcomes will be requested, in their order, perhaps not all of them."""
        self._expected = list(dict.fromkeys(tapes))

    def list_runs(self, tape: Path) -> list[ListedRun]:
        """Return the runs of a tape, oldest first. Raise RequestError and ChildDiedError."""
        answer = self._child.request(do="list", tape=self._name(tape))
        return [
            ListedRun(index=index, name=run["name"], turns=tuple(run["turns"]))
            for index, run in enumerate(answer["runs"])
        ]

    def outcome(self, tape: Path, run: int, turn: int) -> Outcome:
        """Return the outcome of a turn. A fault of the recording is reported in full only once."""
        try:
            answer = self._answer(tape, run, turn)
        except (RequestError, ChildDiedError) as error:
            return Outcome(failure=str(error), measures=())
        found = answer["runs"].get(str(run))
        if found is None:
            return Outcome(failure=f"{self._name(tape)} has fewer runs than before", measures=())
        of_turn = found["turns"].get(str(turn), {})
        known = {name: of_turn.get(name) for name in _MEASURES}
        known["updated"] = answer["updated"]
        measures = [
            (name, _measure(each)) for name, each in known.items() if each not in (None, "")
        ]
        failure = self._failure_of_recording(tape, run, turn, found) or of_turn.get("failure", "")
        if not failure and not of_turn:
            failure = f"{self._name(tape)} no longer has turn {turn}"
        return Outcome(failure=failure, measures=tuple(measures))

    def close(self) -> None:
        """End the child process."""
        self._child.close()

    def _answer(self, tape: Path, run: int, turn: int) -> dict[str, Any]:
        settings = self._settings
        by_turn = settings.mode == "regenerate" and not settings.update
        key = (tape, run, turn) if by_turn else (tape,)
        if key not in self._answers and settings.mode == "verify" and not settings.update:
            self._verify_group(tape)
        if key not in self._answers:
            if self._deaths.get(tape, 0) > 1:
                raise RequestError("not replayed: the process that replays died twice on this tape")
            try:
                self._answers[key] = self._child.request(
                    do="replay",
                    **self._request_of(tape),
                    run=run if by_turn else None,
                    turns=[turn] if by_turn else None,
                    mode=settings.mode,
                    update=settings.update,
                )
            except ChildDiedError:
                self._deaths[tape] = self._deaths.get(tape, 0) + 1
                raise
            except RequestError as error:
                self._answers[key] = {"refused": str(error)}
        answer = self._answers[key]
        if "refused" in answer:
            raise RequestError(answer["refused"])
        return answer

    def _request_of(self, tape: Path) -> dict[str, Any]:
        settings = self._settings
        return {
            "tape": self._name(tape),
            "model": settings.model,
            "floor": settings.floor,
            "ignore": list(settings.ignore),
            "allow_drift": settings.allow_drift,
            "html": settings.html,
        }

    def _verify_group(self, tape: Path) -> None:
        """Verify an expected tape and the next small ones together; keep their answers.

        Without an answer, because the child died or refused, each is verified alone.
        """
        group = self._group_from(tape)
        # A tape of a group that failed is not tried in another one.
        self._expected = [each for each in self._expected if each not in group]
        if len(group) < 2:
            return
        try:
            answer = self._child.request(
                do="verify-all", tapes=[self._request_of(each) for each in group]
            )
        except (RequestError, ChildDiedError):
            return
        for each, found in zip(group, answer["answers"], strict=True):
            refused = {"refused": str(found["error"])} if "error" in found else found
            self._answers[(each,)] = refused

    def _group_from(self, tape: Path) -> list[Path]:
        """Return the tape and the small ones that are expected after it."""
        if tape not in self._expected:
            return [tape]
        group, size = [tape], _file_bytes(tape)
        for each in self._expected[self._expected.index(tape) + 1 :]:
            size += _file_bytes(each)
            if size > _GROUP_BYTES or len(group) == _GROUP_TAPES:
                break
            group.append(each)
        return group

    def _failure_of_recording(self, tape: Path, run: int, turn: int, found: dict[str, Any]) -> str:
        failure: str = found["failure"]
        if not failure:
            return ""
        first = self._first_reports.setdefault((tape, run), f"turn {turn}")
        if first == f"turn {turn}":
            return failure
        return f"{found['summary']} (the whole recording: see {first})"

    def _name(self, tape: Path) -> str:
        try:
            return os.path.relpath(tape, self._folder)
        except ValueError:  # another drive
            return str(tape)


def _file_bytes(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _measure(value: object) -> object:
    return printable(value) if isinstance(value, str) else value
