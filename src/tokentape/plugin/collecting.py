"""Tapes as pytest sees them: a file with an item for each turn."""

import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tokentape.plugin.child import ChildDied, ReplayError
from tokentape.plugin.outcomes import ListedRun, Replays
from tokentape.plugin.settings import add_to_arguments, has_tapes, read_settings


class Tapes:
    """The hooks, and what they share in a session."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._settings = read_settings(config)
        add_to_arguments(config, self._settings)
        self.replays = Replays(self._settings, config.invocation_params.dir)

    def pytest_report_header(self) -> str:
        asked = self._settings
        roots = ", ".join(map(str, asked.roots))
        model = f", model {asked.model}" if asked.model and asked.mode != "rebuild" else ""
        return f"tapes: {asked.mode} {roots}{model}"

    @pytest.hookimpl(tryfirst=True)
    def pytest_ignore_collect(self, collection_path: Path, config: pytest.Config) -> bool | None:
        """Go into folders of tapes that are called `build`, say, which pytest passes by."""
        if not (self._settings.covers(collection_path) and collection_path.is_dir()):
            return None
        ignored = map(os.path.abspath, config.getoption("ignore") or ())
        if str(collection_path) in ignored or collection_path.name.startswith("."):
            return None
        passed_by = any(map(collection_path.match, config.getini("norecursedirs")))
        return False if passed_by and has_tapes(collection_path) else None

    def pytest_collect_file(self, file_path: Path, parent: pytest.Collector) -> Any:
        if file_path.suffix == ".tape" and self._settings.covers(file_path):
            return TapeFile.from_parent(parent, path=file_path, replays=self.replays)
        return None

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        reports = [each for group in terminalreporter.stats.values() for each in group]
        updated = [
            value
            for report in reports
            for name, value in getattr(report, "user_properties", ())
            if name == "updated" and getattr(report, "when", "") == "call"
        ]
        for line in dict.fromkeys(updated):
            terminalreporter.write_line(f"tape updated: {line}")

    def pytest_unconfigure(self) -> None:
        self.replays.close()


class TapeFile(pytest.File):
    """One run lies in it directly, several by their names."""

    def __init__(self, *, replays: Replays, **place: Any) -> None:
        super().__init__(**place)
        self.replays = replays
        if any(line.startswith("xdist_group") for line in self.config.getini("markers")):
            # One worker replays a tape with `--dist loadgroup`, as with `--dist loadfile`.
            self.add_marker(pytest.mark.xdist_group(name=self.nodeid))

    def collect(self) -> Iterator[pytest.Item | pytest.Collector]:
        try:
            runs = self.replays.list_runs(self.path)
        except (ReplayError, ChildDied) as error:
            # An item that fails, where an error would keep all other tests from running.
            yield Unusable.from_parent(self, name="unreadable", reason=str(error))
            return
        if not runs:
            yield Unusable.from_parent(self, name="empty", reason="there is no run in it")
        if len(runs) == 1:
            yield from _turn_items(self, self, runs[0])
            return
        for name, run in zip(_distinct([run.name for run in runs]), runs, strict=True):
            yield RunInTape.from_parent(self, name=name, tape=self, run=run)


class RunInTape(pytest.Collector):
    def __init__(self, *, tape: TapeFile, run: ListedRun, **place: Any) -> None:
        super().__init__(**place)
        self._tape = tape
        self._run = run

    def collect(self) -> Iterator[pytest.Item]:
        return _turn_items(self, self._tape, self._run)


class TapeItem(pytest.Item):
    """What fails in it is told in its own words, without a traceback."""

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        if isinstance(excinfo.value, TapeFailure):
            return str(excinfo.value)
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Path, None, str]:
        inside = self.nodeid.partition("::")[2].replace("::", ": ")
        return self.path, None, f"{self.path.name}: {inside}"


class TurnItem(TapeItem):
    def __init__(self, *, tape: TapeFile, run: int, turn: int, **place: Any) -> None:
        super().__init__(**place)
        self._tape = tape
        self._run = run
        self._turn = turn
        # `-k` knows no spaces.
        self.extra_keyword_matches.add(f"turn_{turn}")

    def runtest(self) -> None:
        outcome = self._tape.replays.outcome(self._tape.path, self._run, self._turn)
        self.user_properties += outcome.measures
        if outcome.failure:
            raise TapeFailure(outcome.failure)


class Unusable(TapeItem):
    """Stands for a recording of which no turn can be replayed, and fails."""

    def __init__(self, *, reason: str, **place: Any) -> None:
        super().__init__(**place)
        self._reason = reason

    def runtest(self) -> None:
        raise TapeFailure(self._reason)


class TapeFailure(Exception):
    """The message is all there is to show."""


def _turn_items(parent: pytest.Collector, tape: TapeFile, run: ListedRun) -> Iterator[pytest.Item]:
    for turn in run.turns:
        yield TurnItem.from_parent(parent, name=f"turn {turn}", tape=tape, run=run.place, turn=turn)
    if not run.turns:
        reason = f"run {run.name!r} has no turn with a token to replay"
        yield Unusable.from_parent(parent, name="empty", reason=reason)


def _distinct(names: Sequence[str]) -> list[str]:
    """Names that node ids can hold, the second of two that are equal with a number."""
    plain = [re.sub(r"[^\w .+-]+", "_", name).strip() or "run" for name in names]
    seen: Counter[str] = Counter()
    distinct = []
    for name in plain:
        seen[name] += 1
        distinct.append(name if seen[name] == 1 else f"{name} ({seen[name]})")
    return distinct
