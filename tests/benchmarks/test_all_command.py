"""`python -m benchmarks all`: parts in processes of their own, and the file after each."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import benchmarks.__main__ as commands
from benchmarks.summary import runner
from benchmarks.summary.comparison import compare
from benchmarks.summary.parts import PARTS, BenchmarkPart, part_named
from benchmarks.summary.results_file import (
    DIFFERS,
    FAILED,
    FINISHED,
    NOT_HERE,
    PartOutcome,
    read_results,
    write_results,
)
from tests.benchmarks.outcomes import outcome

ROOT = Path(__file__).resolve().parents[2]


def steps(figures: Any) -> Any:
    yield compare("a step", "ms", figures["ours"], "generate", figures["theirs"])


PART = BenchmarkPart(name="decode", minutes=1, compared=steps)


@pytest.fixture
def program(tmp_path: Path) -> Callable[[str], tuple[str, ...]]:
    """Return the command of a program that takes the place of `python -m benchmarks`."""

    def made(text: str) -> tuple[str, ...]:
        path = tmp_path / "program.py"
        path.write_text(f"import json, os, sys, time\nto = sys.argv[-1]\n{text}\n")
        return (sys.executable, str(path))

    return made


WRITE = 'json.dump({"ours": [10.0], "theirs": [15.0], "machine": {"cores": 4}}, open(to, "w"))'


def is_gone(pid: int) -> bool:
    """Return whether a process ends within some seconds."""
    for _ in range(200):
        status = Path(f"/proc/{pid}/stat")
        try:
            # An orphan that nobody waits for stays as a zombie.
            if status.read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except (FileNotFoundError, ProcessLookupError):
            return True
        time.sleep(0.05)
    return False


class TestParts:
    def test_a_part_gives_its_figures_its_machine_and_what_it_printed(
        self, program: Callable[[str], tuple[str, ...]]
    ) -> None:
        made = program(f'print("a table  \\n"); {WRITE}')
        measured = runner.run_part(PART, threads=1, rounds=None, program=made)

        assert measured.status == FINISHED
        assert measured.reason == ""
        assert measured.output == ("a table",)
        assert [each.ratio for each in measured.comparisons] == [1.5]
        assert measured.machine == {"cores": 4}
        assert measured.command == "python -m benchmarks --threads 1 decode"

    @pytest.mark.parametrize(
        ("text", "status", "reason"),
        [
            (f"{WRITE}; sys.exit(1)", DIFFERS, "results that must be equal differ"),
            ('sys.exit("benchmarks: no browser")', FAILED, "benchmarks: no browser"),
            ('sys.stderr.write("no browser here"); sys.exit(2)', NOT_HERE, "no browser here"),
            ('raise OSError("full\\ndisk")', FAILED, "OSError: full"),
            ("pass", FAILED, "exit code 0"),
            ("os.kill(os.getpid(), 9)", FAILED, "exit code -9"),
            ('open(to, "w").write("{")', FAILED, "the figures of decode are not read"),
            ('open(to, "w").write("{}")', FAILED, "the figures of decode are not read"),
        ],
    )
    def test_a_part_that_does_not_finish_has_a_reason(
        self, text: str, status: str, reason: str, program: Callable[[str], tuple[str, ...]]
    ) -> None:
        measured = runner.run_part(PART, threads=1, rounds=None, program=program(text))

        assert (measured.status, measured.reason[: len(reason)]) == (status, reason)
        assert measured.is_measured == (status == DIFFERS)

    def test_a_part_over_its_limit_is_ended(
        self, program: Callable[[str], tuple[str, ...]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(runner, "_LIMIT_S", 0.2)
        measured = runner.run_part(PART, threads=1, rounds=None, program=program("time.sleep(60)"))

        assert measured.status == FAILED
        assert measured.reason.startswith("ended after")
        assert measured.seconds is not None
        assert measured.seconds < 50

    def test_rounds_are_passed_to_the_parts_that_have_some(self) -> None:
        arguments = part_named("decode").arguments(threads=1, rounds=3)

        assert arguments == ("--threads", "1", "decode", "--rounds", "3")
        assert part_named("parity").arguments(threads=2, rounds=3) == ("--threads", "2", "parity")

    def test_every_part_is_a_command_and_takes_its_options(self) -> None:
        known = {each.name for each in commands.app.registered_commands}
        names = {part.name: part.arguments(threads=1, rounds=None)[-1] for part in PARTS}
        assert set(names.values()) <= known
        for part in PARTS:
            name = names[part.name]
            shown = CliRunner().invoke(commands.app, [name, "--help"])
            assert shown.exit_code == 0, name
            assert "--json" in shown.output, name
            assert ("--rounds" in shown.output) >= part.has_rounds, name


class TestAll:
    @pytest.fixture
    def ran(self, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        """Return the names of the parts that are run; those named in `broken` fail."""
        names: list[str] = []

        def run_part(part: BenchmarkPart, **settings: Any) -> PartOutcome:
            names.append(part.name)
            if part.name == "decode":
                return outcome(status=FAILED, reason="it fell over", comparisons=(), output=())
            if names.count("prefill"):
                raise KeyboardInterrupt
            return outcome()

        monkeypatch.setattr(runner, "run_part", run_part)
        return names

    def test_a_part_that_fails_does_not_stop_the_others(
        self, ran: list[str], tmp_path: Path
    ) -> None:
        path = tmp_path / "all.json"
        only = ["--only", "store", "--only", "decode", "--only", "peers"]
        shown = CliRunner().invoke(commands.app, ["all", "--json", str(path), *only])

        assert shown.exit_code == 1
        assert ran == ["store", "decode", "peers"]
        assert {name: each.status for name, each in read_results(path).items()} == {
            "store": FINISHED,
            "decode": FAILED,
            "peers": FINISHED,
        }
        assert "decode: failed in 90 s, it fell over" in shown.output

    def test_a_run_that_was_ended_goes_on_with_what_is_missing(
        self, ran: list[str], tmp_path: Path
    ) -> None:
        path = tmp_path / "all.json"
        CliRunner().invoke(commands.app, ["all", "--json", str(path)])
        ended = list(ran)
        assert list(read_results(path)) == ended[:-1]
        ran.clear()
        shown = CliRunner().invoke(
            commands.app, ["all", "--json", str(path), "--only", "store", "--only", "parity"]
        )

        assert shown.exit_code == 0
        assert ran == ["parity"]
        assert "store: kept from 2026-01-31" in shown.output

    def test_two_runs_at_once_keep_the_parts_of_both(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = tmp_path / "all.json"

        def run_part(part: BenchmarkPart, **settings: Any) -> PartOutcome:
            write_results(path, read_results(path) | {"parity": outcome()})
            return outcome()

        monkeypatch.setattr(runner, "run_part", run_part)
        shown = CliRunner().invoke(commands.app, ["all", "--json", str(path), "--only", "store"])

        assert shown.exit_code == 0
        assert set(read_results(path)) == {"store", "parity"}

    def test_figures_are_not_lost_to_a_run_that_fails(self, ran: list[str], tmp_path: Path) -> None:
        path = tmp_path / "all.json"
        write_results(path, {"decode": outcome(), "gone": outcome()})
        again = ["--only", "decode", "--only", "store", "--again"]
        shown = CliRunner().invoke(commands.app, ["all", "--json", str(path), *again])

        assert shown.exit_code == 1
        assert ran == ["decode", "store"]
        assert "failed, it fell over; kept from 2026-01-31" in shown.output
        assert read_results(path)["decode"] == outcome()
        assert "gone" in read_results(path)

    def test_a_file_that_cannot_be_written_is_refused_before_anything_runs(
        self, ran: list[str], tmp_path: Path
    ) -> None:
        (tmp_path / "file").write_text("")
        shown = CliRunner().invoke(
            commands.app, ["all", "--json", str(tmp_path / "file" / "all.json")]
        )

        assert shown.exit_code == 2
        assert ran == []

    def test_an_unknown_part_exits_with_2_and_names_the_known_ones(self, tmp_path: Path) -> None:
        shown = CliRunner().invoke(
            commands.app, ["all", "--json", str(tmp_path / "f"), "--only", "nonsense"]
        )

        assert shown.exit_code == 2
        assert "unknown part: 'nonsense'; known: store, decode" in shown.output

    def test_a_killed_run_ends_its_part_and_what_that_started(
        self, program: Callable[[str], tuple[str, ...]], tmp_path: Path
    ) -> None:
        started = tmp_path / "started"
        sleeping = program(
            "import subprocess\nother = subprocess.Popen(['sleep', '600'])\n"
            f'open({str(started)!r}, "w").write(f"{{os.getpid()}} {{other.pid}}."); time.sleep(600)'
        )
        script = (
            "import sys\nimport benchmarks.__main__ as main\n"
            "from benchmarks.summary import runner\n"
            f"runner.run_part.__kwdefaults__['program'] = {sleeping!r}\n"
            f"sys.argv = ['benchmarks', 'all', '--json', {str(tmp_path / 'f')!r}]\nmain.app()\n"
        )
        for number in (signal.SIGINT, signal.SIGTERM):
            started.unlink(missing_ok=True)
            process = subprocess.Popen(
                [sys.executable, "-c", script], cwd=ROOT, stderr=subprocess.DEVNULL
            )
            while not (started.exists() and started.read_text().endswith(".")):
                assert process.poll() is None
                time.sleep(0.05)
            process.send_signal(number)

            assert process.wait(timeout=60) != 0
            for pid in started.read_text().rstrip(".").split():
                assert is_gone(int(pid))
