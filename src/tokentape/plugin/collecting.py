"""Collect tapes: a file collector with an item for each turn."""

import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tokentape.plugin.child import ChildDiedError, RequestError
from tokentape.plugin.outcomes import ListedRun, Replays
from tokentape.plugin.printable import printable, printable_lines
from tokentape.plugin.settings import add_to_arguments, has_tapes, read_settings


class Tapes:
    """The hooks of a session, which share the settings and the child process."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._settings = read_settings(config)
        add_to_arguments(config, self._settings)
        self.replays = Replays(self._settings, config.invocation_params.dir)

    def pytest_report_header(self) -> str:
        """Return the mode, the folders and the model for pytest's header."""
        settings = self._settings
        roots = ", ".join(map(str, settings.roots))
        model = f", model {settings.model}" if settings.model and settings.mode != "rebuild" else ""
        return printable(f"tapes: {settings.mode} {roots}{model}")

    @pytest.hookimpl(tryfirst=True)
    def pytest_ignore_collect(self, collection_path: Path, config: pytest.Config) -> bool | None:
        """Collect tapes in folders that pytest skips by default, such as `build`."""
        if not (self._settings.covers(collection_path) and collection_path.is_dir()):
            return None
        ignored = map(os.path.abspath, config.getoption("ignore") or ())
        if str(collection_path) in ignored or collection_path.name.startswith("."):
            return None
        skipped = any(map(collection_path.match, config.getini("norecursedirs")))
        return False if skipped and has_tapes(collection_path) else None

    def pytest_collect_file(self, file_path: Path, parent: pytest.Collector) -> Any:
        """Collect a tape."""
        if file_path.suffix == ".tape" and self._settings.covers(file_path):
            return TapeFile.from_parent(parent, path=file_path, replays=self.replays)
        return None

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Tell which tapes will be replayed, so that small ones can be verified together.

        A worker of xdist runs only some of the items, and learns one by one which.
        """
        if not hasattr(self._config, "workerinput"):
            items = (each for each in session.items if isinstance(each, TurnItem))
            self.replays.expect(each.path for each in items)

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """Print which tapes were updated, and where their reports are."""
        reports = [each for group in terminalreporter.stats.values() for each in group]
        updated = [
            value
            for report in reports
            for name, value in getattr(report, "user_properties", ())
            if name == "updated" and getattr(report, "when", "") == "call"
        ]
        for line in dict.fromkeys(updated):
            terminalreporter.write_line(printable(f"tape updated: {line}"))
        if self._settings.html:
            terminalreporter.write_line(printable(f"tape reports: {self._settings.html}"))

    def pytest_unconfigure(self) -> None:
        """End the child process."""
        self.replays.close()


class TapeFile(pytest.File):
    """A tape: the turns of its run, or a collector per run if it has several."""

    def __init__(self, *, replays: Replays, **node: Any) -> None:
        super().__init__(**node)
        self.replays = replays
        if any(line.startswith("xdist_group") for line in self.config.getini("markers")):
            # With `--dist loadgroup` one worker replays a tape, as with `--dist loadfile`.
            self.add_marker(pytest.mark.xdist_group(name=self.nodeid))

    def collect(self) -> Iterator[pytest.Item | pytest.Collector]:
        """Yield the turns of one run, a collector per run if it has several, or a failing item."""
        try:
            runs = self.replays.list_runs(self.path)
        except (RequestError, ChildDiedError) as error:
            # A failing item: an error of collection would keep all other tests from running.
            yield UnusableTape.from_parent(self, name="unreadable", reason=str(error))
            return
        if not runs:
            yield UnusableTape.from_parent(self, name="empty", reason="the tape has no run")
        if len(runs) == 1:
            yield from _turn_items(self, self, runs[0])
            return
        for name, run in zip(_unique_names([run.name for run in runs]), runs, strict=True):
            yield RunInTape.from_parent(self, name=name, tape=self, run=run)


class RunInTape(pytest.Collector):
    """One of several runs of a tape."""

    def __init__(self, *, tape: TapeFile, run: ListedRun, **node: Any) -> None:
        super().__init__(**node)
        self._tape = tape
        self._run = run

    def collect(self) -> Iterator[pytest.Item]:
        """Yield the turns of the run."""
        return _turn_items(self, self._tape, self._run)


class TapeItem(pytest.Item):
    """An item whose failure is shown as a message, without a traceback."""

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """Return the message of a TapeFailure, and a traceback of anything else."""
        if isinstance(excinfo.value, TapeFailure):
            return printable_lines(str(excinfo.value))
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Path, None, str]:
        """Return the tape and turn as pytest's verbose output names them."""
        inside = self.nodeid.partition("::")[2].replace("::", ": ")
        return self.path, None, f"{self.path.name}: {inside}"


class TurnItem(TapeItem):
    """A turn of a run; it passes if the replay of the turn passes."""

    def __init__(self, *, tape: TapeFile, run: int, turn: int, **node: Any) -> None:
        super().__init__(**node)
        self._tape = tape
        self._run = run
        self._turn = turn
        # `-k` accepts no spaces.
        self.extra_keyword_matches.add(f"turn_{turn}")

    def runtest(self) -> None:
        """Replay the turn. Raise TapeFailure if it does not pass."""
        outcome = self._tape.replays.outcome(self._tape.path, self._run, self._turn)
        self.user_properties += outcome.measures
        if outcome.failure:
            raise TapeFailure(outcome.failure)


class UnusableTape(TapeItem):
    """A failing item for a tape or run without a turn that can be replayed."""

    def __init__(self, *, reason: str, **node: Any) -> None:
        super().__init__(**node)
        self._reason = reason

    def runtest(self) -> None:
        """Raise TapeFailure."""
        raise TapeFailure(self._reason)


class TapeFailure(Exception):
    """A tape or turn that does not pass; the message is the whole report."""


def _turn_items(parent: pytest.Collector, tape: TapeFile, run: ListedRun) -> Iterator[pytest.Item]:
    """Yield an item for each turn of a run, or a failing one if it has no turn."""
    for turn in run.turns:
        yield TurnItem.from_parent(parent, name=f"turn {turn}", tape=tape, run=run.index, turn=turn)
    if not run.turns:
        reason = f"run {run.name!r} has no turn with a token to replay"
        yield UnusableTape.from_parent(parent, name="empty", reason=reason)


def _unique_names(names: Sequence[str]) -> list[str]:
    """Return names that are valid in node ids; a number makes a repeated name unique."""
    plain = [re.sub(r"[^\w .+-]+", "_", name).strip() or "run" for name in names]
    seen: Counter[str] = Counter()
    distinct = []
    for name in plain:
        seen[name] += 1
        distinct.append(name if seen[name] == 1 else f"{name} ({seen[name]})")
    return distinct
