"""`python -m benchmarks page`: the page, the file of results, and the comparisons in both."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import benchmarks.__main__ as commands
from benchmarks.summary import extract
from benchmarks.summary.budgets import BUDGETS, Budget, budget_of
from benchmarks.summary.comparison import Comparison, compare, figure
from benchmarks.summary.page import page
from benchmarks.summary.parts import PARTS, compared
from benchmarks.summary.results_file import (
    FAILED,
    NOT_HERE,
    read_results,
    write_results,
)
from tests.benchmarks.outcomes import outcome

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results.json"
IN_BULK = ("verify a small tape in bulk, 2 processes", "one by one")


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
