"""`python -m benchmarks all` and `page`: parts in processes, the file of results, and the page."""

import json
import os
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
from benchmarks.summary import extract, runner
from benchmarks.summary.budgets import BUDGETS, Budget, budget_of
from benchmarks.summary.comparison import Comparison, compare, figure
from benchmarks.summary.page import page
from benchmarks.summary.parts import PARTS, BenchmarkPart, compared, part_named
from benchmarks.summary.results_file import (
    DIFFERS,
    FAILED,
    FINISHED,
    NOT_HERE,
    PartOutcome,
    read_results,
    write_results,
)

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results.json"
IN_BULK = ("verify a small tape in bulk, 2 processes", "one by one")
# A version without these commands says so on the page.
OF_LATER_VERSIONS = {"bulk", "step-profile"}
MACHINE = {"processor": "one", "cores": 2, "torch": "2.13.0"}


def outcome(**changes: Any) -> PartOutcome:
    made: dict[str, Any] = {
        "status": FINISHED,
        "reason": "",
        "day": "2026-01-31",
        "seconds": 90.0,
        "load": (0.5, 1.5),
        "command": "python -m benchmarks decode",
        "machine": MACHINE,
        "comparisons": (compare("a step", "ms", [10.0, 12.0], "generate", [11.0, 18.0]),),
        "output": ("a table",),
    }
    return PartOutcome(**made | changes)


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


class TestPage:
    def test_the_committed_page_is_what_the_committed_results_say(self) -> None:
        assert (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8") == page(
            read_results(RESULTS)
        ), "python -m benchmarks page --from benchmarks/results.json --page docs/benchmarks.md"

    def test_every_part_has_a_place_and_says_when_it_was_not_measured(self) -> None:
        text = page({})

        assert text.count("*Not measured yet.*") == len(PARTS)
        assert "{{" not in text

    def test_a_figure_stands_beside_that_of_its_peer_and_its_budget(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        bound = Budget(of="value", bound=10.5, at_least=False)
        monkeypatch.setitem(BUDGETS, ("a step", "generate"), bound)
        row = "| a step | 11 ms | generate | 14.5 ms | 1.3 × | 1.1 to 1.5 | ≤ 10.5 ms | **no** | "
        row += "2026-01-31 |"

        assert row in page({"decode": outcome()})
        busy = page({"decode": outcome(load=(0.5, 7.0))})
        assert row.replace("**no**", "**no** (busy machine)") in busy
        assert "on 2026-01-31 in 1.5 minutes, with a load of 0.5 before and 7 after." in busy
        ratio = Budget(of="ratio", bound=1.2, at_least=True)
        monkeypatch.setitem(BUDGETS, ("a step", "generate"), ratio)
        assert "| ≥ 1.2 × | yes | 2026-01-31 |" in page({"decode": outcome()})

    def test_a_figure_that_is_missing_says_why(self, monkeypatch: pytest.MonkeyPatch) -> None:
        missing = Comparison(
            what="a | step", unit="ms", ours=None, peer="other", note="no | `tool`"
        )
        monkeypatch.setitem(
            BUDGETS, (missing.what, "other"), Budget(of="value", bound=1, at_least=False)
        )
        text = page({"decode": outcome(comparisons=(missing,))})

        assert "– | other (no / 'tool') |" in text
        assert "| not measured |" in text

    def test_a_part_that_failed_says_why(self) -> None:
        text = page({"decode": outcome(status=FAILED, reason="it fell over.", comparisons=())})

        assert "**failed**: it fell over.\n" in text
        assert "a table" not in text

    def test_every_budget_is_that_of_a_figure_which_a_part_can_give(self) -> None:
        results = read_results(RESULTS)
        given = {(each.what, each.peer) for part in results.values() for each in part.comparisons}
        not_run = set() if "bulk" in results else {IN_BULK}

        assert set(BUDGETS) - given <= not_run


class TestFile:
    def test_what_is_written_is_read_again(self, tmp_path: Path) -> None:
        written = {
            "decode": outcome(),
            "store": outcome(status=NOT_HERE, load=None, seconds=None, comparisons=()),
        }
        write_results(tmp_path / "new" / "all.json", written)

        assert read_results(tmp_path / "new" / "all.json") == written
        assert [each.name for each in (tmp_path / "new").iterdir()] == ["all.json"]
        assert read_results(tmp_path / "none.json") == {}

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "[]",
            "{}",
            '{"version": 2, "parts": {}}',
            '{"version": 1, "parts": {"decode": {}}}',
            '{"version": 1, "parts": []}',
        ],
    )
    def test_another_file_is_refused_and_stays(self, text: str, tmp_path: Path) -> None:
        path = tmp_path / "other.json"
        path.write_text(text)
        shown = CliRunner().invoke(commands.app, ["all", "--json", str(path)])

        assert shown.exit_code == 2
        assert "is not a file of results" in shown.output
        assert path.read_text() == text
        to = str(tmp_path / "page.md")
        shown = CliRunner().invoke(commands.app, ["page", "--from", str(path), "--page", to])
        assert shown.exit_code == 2
        assert not Path(to).exists()


class TestComparison:
    def test_a_ratio_above_one_means_that_tokentape_is_better(self) -> None:
        slower = compare("a step", "ms", [10.0, 20.0, 10.0], "generate", [12.0, 18.0, 20.0])
        more = compare("rate", "1/s", [20.0], "generate", [10.0], higher_is_better=True)

        assert (slower.ours, slower.theirs) == (10.0, 18.0)
        assert (slower.ratio, slower.ratio_min, slower.ratio_max) == (1.2, 0.9, 2.0)
        assert slower.rounds == 3
        assert more.ratio == 2.0
        for broken in ([], [1.0, 2.0]):
            with pytest.raises(ValueError, match=r"rounds|longer|shorter"):
                compare("a step", "ms", broken, "generate", [1.0])
        with pytest.raises(ValueError, match="no rounds"):
            figure("a step", "ms", [])

    def test_figures_of_another_shape_are_refused(self) -> None:
        for part in PARTS:
            if part.compared is not extract.nothing:
                with pytest.raises(ValueError, match="figures of another shape"):
                    compared(part, {"replay": 1, "store": 1})

    def test_tapes_in_bulk_are_compared_with_every_stretch_of_single_ones(self) -> None:
        measured = {"one_by_one_s": [0.4, 0.8], "in_bulk_s": 0.2, "jobs": 2, "with_jobs_s": 0.1}
        one, two = extract.bulk({"bulk": measured})

        assert (one.ours, one.theirs, one.ratio) == (200.0, pytest.approx(600.0), pytest.approx(3))
        assert (two.ratio_min, two.ratio_max) == (pytest.approx(4.0), pytest.approx(8.0))
        assert (two.what, two.peer) == IN_BULK
        assert budget_of(two) is not None

    def test_many_at_once_are_compared_in_times_of_one_alone(self) -> None:
        def engine(*step_ms: float | None) -> dict[str, Any]:
            return {"step_ms": list(step_ms), "whole_per_s": [1.0] * len(step_ms)}

        engines = {
            "tokentape, one alone": engine(50.0, 100.0),
            "tokentape, batch": engine(100.0, 250.0),
            "generate, padded batch": engine(200.0, 400.0),
            "generate_batch": engine(200.0, None),
        }
        measured = {"engines": engines, "missing": {"llama.cpp, float32": "no wheel"}}
        padded, continuous, llama = extract.batch({"decode": {"8": measured}})

        assert (padded.what, padded.unit) == ("step of 8 at once", "× one alone")
        assert (padded.ours, padded.theirs, padded.ratio) == (2.25, 4.0, pytest.approx(1.8))
        assert continuous.theirs is None
        assert continuous.note == "a sequence ended before another began"
        assert llama.ours == 2.25
        assert llama.note == "no wheel"


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
        assert set(names.values()) - known <= OF_LATER_VERSIONS
        for part in PARTS:
            name = names[part.name]
            if name not in known:
                continue
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

    def test_a_killed_run_ends_its_part(
        self, program: Callable[[str], tuple[str, ...]], tmp_path: Path
    ) -> None:
        started = tmp_path / "started"
        sleeping = program(f'open({str(started)!r}, "w").write(str(os.getpid())); time.sleep(600)')
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
            while not (started.exists() and started.read_text()):
                assert process.poll() is None
                time.sleep(0.05)
            process.send_signal(number)

            assert process.wait(timeout=60) != 0
            with pytest.raises(ProcessLookupError):
                os.kill(int(started.read_text()), 0)


def test_the_page_command_writes_the_page(tmp_path: Path) -> None:
    path, to = tmp_path / "all.json", tmp_path / "page.md"
    write_results(path, {"decode": outcome()})
    given = ["page", "--from", str(path), "--page", str(to)]
    shown = CliRunner().invoke(commands.app, given)

    assert shown.exit_code == 0
    assert to.read_text(encoding="utf-8") == page({"decode": outcome()})
    path.unlink()
    shown = CliRunner().invoke(commands.app, given)
    assert shown.exit_code == 2
    assert "there is no file" in shown.output


def test_the_committed_results_are_plain_json_without_paths_of_a_machine() -> None:
    text = RESULTS.read_text(encoding="utf-8")

    assert json.loads(text)["version"] == 1
    for folder in (str(Path.home()), "/tmp/", str(ROOT)):
        assert folder not in text
