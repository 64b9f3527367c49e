"""Which tapes the pytest plugin has verified together, and what it does if that fails."""

from pathlib import Path
from typing import Any

import pytest

from tokentape.plugin.child import ChildDiedError, RequestError
from tokentape.plugin.outcomes import Replays
from tokentape.plugin.settings import Settings

PASSED = {"runs": {"0": {"failure": "", "turns": {"1": {"verdict": "verified"}}}}, "updated": ""}


class Child:
    """Answers as the child process does, and keeps which tapes each request named."""

    def __init__(self, error: Exception | None = None) -> None:
        self.asked: list[list[str]] = []
        self._error = error

    def request(self, **request: Any) -> dict[str, Any]:
        tapes = [each["tape"] for each in request.get("tapes", [request])]
        self.asked.append(tapes)
        if request["do"] == "replay":
            return PASSED
        if self._error is not None:
            raise self._error
        return {"answers": [PASSED if "bad" not in each else {"error": each} for each in tapes]}


def replays(folder: Path, child: Child, mode: str = "verify", *, update: bool = False) -> Replays:
    settings = Settings(
        roots=(folder,),
        model="",
        mode=mode,
        update=update,
        ignore=(),
        floor="",
        allow_drift=False,
        html="",
    )
    found = Replays(settings, folder)
    found._child = child  # type: ignore[assignment]
    return found


def written(folder: Path, *names: str, size: int = 10) -> list[Path]:
    tapes = [folder / name for name in names]
    for tape in tapes:
        tape.write_bytes(b"." * size)
    return tapes


def test_expected_tapes_are_verified_together_and_each_has_its_answer(tmp_path: Path) -> None:
    child = Child()
    tapes = written(tmp_path, "a.tape", "bad.tape", "c.tape")
    found = replays(tmp_path, child)
    found.expect([tapes[0], tapes[0], tapes[1], tapes[2]])

    failures = [found.outcome(tape, 0, 1).failure for tape in tapes]

    assert child.asked == [["a.tape", "bad.tape", "c.tape"]]
    assert failures == ["", "bad.tape", ""]


@pytest.mark.parametrize("error", [ChildDiedError("killed"), RequestError("unexpected KeyError")])
def test_without_an_answer_for_all_each_is_verified_alone(tmp_path: Path, error: Exception) -> None:
    child = Child(error)
    tapes = written(tmp_path, "a.tape", "b.tape")
    found = replays(tmp_path, child)
    found.expect(tapes)

    failures = [found.outcome(tape, 0, 1).failure for tape in tapes]

    assert child.asked == [["a.tape", "b.tape"], ["a.tape"], ["b.tape"]]
    assert failures == ["", ""]


def test_large_tapes_do_not_delay_the_result_of_the_first(tmp_path: Path) -> None:
    child = Child()
    small = written(tmp_path, *(f"{number:02}.tape" for number in range(40)))
    large = written(tmp_path, "large.tape", size=2**20)
    found = replays(tmp_path, child)
    found.expect([small[0], *large, *small[1:]])
    for tape in (small[0], *large, *small[1:]):
        found.outcome(tape, 0, 1)

    assert [len(each) for each in child.asked] == [1, 1, 32, 7]


@pytest.mark.parametrize(
    ("mode", "update"), [("retrace", False), ("rebuild", False), ("verify", True)]
)
def test_other_modes_and_updates_take_a_tape_at_a_time(
    tmp_path: Path, mode: str, update: bool
) -> None:
    child = Child()
    tapes = written(tmp_path, "a.tape", "b.tape")
    found = replays(tmp_path, child, mode, update=update)
    found.expect(tapes)
    for tape in tapes:
        found.outcome(tape, 0, 1)

    assert child.asked == [["a.tape"], ["b.tape"]]


def test_a_tape_that_was_not_expected_is_verified_alone(tmp_path: Path) -> None:
    child = Child()
    tapes = written(tmp_path, "a.tape", "b.tape")
    found = replays(tmp_path, child)
    for tape in tapes:
        found.outcome(tape, 0, 1)

    assert child.asked == [["a.tape"], ["b.tape"]]
