"""The fixture `tape_model`: which tape a test plays, how, and its update after the test passed."""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import quote

import pytest

from tokentape.plugin.printable import printable
from tokentape.plugin.settings import check_not_in_ci, configured_model

MODES = ("strict", "warn", "passthrough")
_FOLDER = "tapes"
_ARGUMENTS = ("run", "mode", "rerun_tools", "all_used")


class TapeUpdates:
    """The hooks of a session that updates the tapes that its tests play.

    Raise pytest.UsageError in CI.
    """

    def __init__(self, config: pytest.Config, *, others: bool) -> None:
        """`others` says that tapes are named, too, which are replayed and updated."""
        check_not_in_ci()
        self._others = others or hasattr(config, "workerinput")

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Raise pytest.UsageError if there is nothing to update."""
        items = (each for each in session.items if "tape_model" in _fixtures_of(each))
        if not self._others and next(items, None) is None:
            raise pytest.UsageError(
                "--tape-update: name the recordings with --tapes, or run tests that use the "
                "fixture tape_model"
            )

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """Print which tapes were updated."""
        reports = [each for group in terminalreporter.stats.values() for each in group]
        updated = [
            value
            for report in reports
            for name, value in getattr(report, "user_properties", ())
            if name == "tape_updated"
        ]
        for tape in dict.fromkeys(updated):
            terminalreporter.write_line(printable(f"tape updated: {tape}"))


def play(request: pytest.FixtureRequest) -> Iterator[Any]:
    """Yield the `tt.Playback` of a test; replace its tape if that is asked for and it passed."""
    arguments = _arguments(request)
    all_used = arguments.pop("all_used", False)
    update = bool(request.config.getoption("tape_update"))
    marked = arguments.pop("mode", None)
    mode = "passthrough" if update else _mode(request, marked)
    tape = _tape_of(request)
    if mode != "passthrough" and not tape.exists():
        _fail(
            f"there is no tape at {tape}: name another one with @pytest.mark.tape(PATH), or record "
            "it with --tape-update --tape-model MODEL"
        )
    # The public name: this module is imported by tests that play a tape, and so are our rooms.
    from tokentape import playback

    if mode == "passthrough":
        arguments["model"] = configured_model(request.config) or None
    failed_before = request.session.testsfailed
    with playback(tape, mode=mode, **arguments) as played:
        yield played
        if request.session.testsfailed > failed_before:
            return
        if all_used:
            played.check_all_used()
        if update and played.new_run_ids:
            tape.parent.mkdir(parents=True, exist_ok=True)
            played.save()
            request.node.user_properties.append(("tape_updated", str(tape)))


def _fixtures_of(item: pytest.Item) -> tuple[str, ...]:
    return tuple(getattr(item, "fixturenames", ()))


def _arguments(request: pytest.FixtureRequest) -> dict[str, Any]:
    marker = request.node.get_closest_marker("tape")
    if marker is None:
        return {}
    unknown = sorted(marker.kwargs.keys() - {*_ARGUMENTS})
    if unknown or len(marker.args) > 1:
        what = unknown[0] if unknown else "a second path"
        _fail(f"@pytest.mark.tape takes a path, {', '.join(_ARGUMENTS)}, and not {what}")
    return dict(marker.kwargs)


def _mode(request: pytest.FixtureRequest, marked: str | None) -> str:
    config = request.config
    mode: str = config.getoption("tape_playback") or marked or config.getini("tape_playback")
    if mode not in MODES:
        _fail(f"tape_playback: one of {', '.join(MODES)}, not {mode!r}")
    return mode


def _tape_of(request: pytest.FixtureRequest) -> Path:
    """Return the tape that the marker names, or `tapes/MODULE/TEST.tape` beside the test's file."""
    folder: Path = Path(request.node.path).parent
    marker = request.node.get_closest_marker("tape")
    if marker is not None and marker.args:
        return folder / os.path.expanduser(str(marker.args[0]))
    inside = [each.name for each in request.node.listchain() if each.path == request.node.path]
    # Each name of a test has its own file name, whatever its parameters are.
    name = quote(".".join(inside[1:]), safe="[]=,+@ ")
    module = re.sub(r"\.py$", "", Path(request.node.path).name)
    return folder / _FOLDER / module / f"{name}.tape"


def _fail(reason: str) -> NoReturn:
    pytest.fail(printable(reason), pytrace=False)
