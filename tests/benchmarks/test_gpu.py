"""`python -m benchmarks gpu`: its sections at tiny size, its limits, its page and its wheels."""

import json
import subprocess
import sys
import zipfile
from collections.abc import Callable
from functools import reduce
from pathlib import Path
from typing import Any

import pytest
import torch
from packaging.requirements import Requirement
from packaging.version import Version
from typer.testing import CliRunner, Result

import benchmarks.__main__ as commands
from benchmarks.gpu import draws, gather_wheels, parity, runner
from benchmarks.gpu.bench import Bench
from benchmarks.gpu.findings import Findings, completed, read_findings
from benchmarks.gpu.page import page
from benchmarks.gpu.promises import broken, not_measured
from benchmarks.gpu.runner import run_sections
from benchmarks.gpu.sections import SECTIONS, Section, section_named
from benchmarks.replay.faults import FAULTS

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "gpu" / "results.json"
EARLIER_RESULTS = RESULTS.with_name("results-earlier.json")


@pytest.fixture
def run() -> Callable[..., Result]:
    return lambda *arguments: CliRunner().invoke(commands.app, ["gpu", *map(str, arguments)])


@pytest.fixture
def stub(tmp_path: Path) -> Callable[[str], tuple[str, ...]]:
    """Return the command of a worker that runs a program in place of a section."""

    def made(program: str) -> tuple[str, ...]:
        path = tmp_path / "stub.py"
        path.write_text(f"import os, sys, time\n{program}\n")
        return (sys.executable, str(path))

    return made


def measured(name: str, dtypes: tuple[str, ...], folder: Path) -> dict[str, Any]:
    """Return the part of the file with a section that was measured in this process."""
    findings: list[Any] = []
    bench = Bench(
        device=torch.device("cpu"), tiny=True, dtype="", folder=folder, found=findings.append
    )
    section_named(name).run(bench, dtypes)
    return part(name, dtypes, findings)


def part(name: str, dtypes: tuple[str, ...], findings: list[Any]) -> dict[str, Any]:
    return {
        "section": name,
        "dtypes": list(dtypes),
        "status": "finished",
        "seconds": 1.0,
        "error": "",
        "findings": findings,
    }


def figures(*parts: dict[str, Any]) -> dict[str, Any]:
    return Findings(Path("unused"), "cpu", True, 1.0).to_json() | {"parts": list(parts)}


def test_the_page_is_what_the_committed_figures_say_or_that_there_are_none() -> None:
    runs = [read_findings(each) for each in (RESULTS, EARLIER_RESULTS) if each.exists()]
    committed = reduce(completed, runs) if runs else None

    assert (ROOT / "docs" / "gpu.md").read_text(encoding="utf-8") == page(committed), (
        "write it again: python -m benchmarks gpu --page docs/gpu.md"
    )


def test_a_part_that_did_not_finish_is_taken_from_another_run_of_the_same_card() -> None:
    over = part("speed", (), []) | {"status": "over its limit", "error": "ended after 75 s"}
    done = part("speed", (), [{"what": "nothing"}])
    kept = part("draws", (), [{"what": "this run"}])
    later = figures(kept, over)
    earlier = figures(part("draws", (), [{"what": "that run"}]), done) | {"day": "2026-01-02"}

    joined = completed(later, earlier)

    assert joined["parts"] == [kept, done | {"taken_from": "2026-01-02"}]
    assert "| speed | finished in another run on 2026-01-02 | 1 | 1 | 0 |" in page(joined)
    card = part("environment", (), [{"what": "environment", "gpu": "another"}])
    with pytest.raises(ValueError, match="do not belong together: gpu None and 'another'"):
        completed(later, figures(card, done))


def test_each_section_finds_something_and_the_page_shows_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parity, "_TINY_FAMILIES", ("llama",))
    parts = [
        measured("environment", (), tmp_path),
        measured("draws", (), tmp_path),
        measured("retraces", ("float32",), tmp_path),
        measured("parity", ("bfloat16",), tmp_path),
        measured("faults", ("float16",), tmp_path),
        measured("turns", (), tmp_path),
        measured("memory", (), tmp_path),
    ]
    found = figures(*parts)
    text = page(json.loads(json.dumps(found)))

    assert list(not_measured(found)) == []
    assert list(broken(found)) == []
    assert all(each["findings"] for each in parts)
    assert "as a dry run, **not on a GPU**" in text
    assert "| llama | bfloat16 | exact, 0 of 32 differ |" in text
    assert "| same process | float32 | exact | 0 of 12 |  |" in text
    assert f"| {FAULTS[4].name} | float16 | " in text
    for title in ("Twenty turns", "Speed of a step", "Memory planned and measured"):
        assert f"## {title}\n" in text
    assert "Not measured" not in text


def test_what_is_not_as_promised_is_named() -> None:
    retrace = {"what": "retrace", "family": "llama", "dtype": "float16", "verdict": "drifted"}
    retrace |= {"rows_that_differ": 3, "tokens": 9, "reason": "why", "first_row": ""}
    fault = {"what": "fault", "fault": "seed + 1", "dtype": "float16", "right": False}
    fault |= {"verdict": "exact", "cause": ""}
    error = {"what": "floor", "family": "llama", "error": "ValueError: no"}
    part = {"dtypes": ["float16"], "status": "finished", "seconds": 1.0, "error": ""}
    found = figures(
        part | {"section": "parity", "findings": [retrace, error]},
        part | {"section": "faults", "findings": [fault], "status": "failed", "error": "killed"},
    )

    assert list(broken(found)) == [
        "parity, retrace, llama, float16: drifted, 3 of 9 rows differ; why",
        "fault in float16, seed + 1: exact, cause none",
    ]
    assert list(not_measured(found)) == [
        "parity, floor (llama): `ValueError: no`",
        "faults float16: failed: `killed`",
    ]


def test_a_part_is_a_process_whose_findings_are_in_the_file(
    run: Callable[..., Result], tmp_path: Path
) -> None:
    path = tmp_path / "new" / "results.json"
    done = run("--device", "cpu", "--tiny", "--only", "draws", "--json", path)
    written = read_findings(path)

    assert done.exit_code == 0, done.output
    assert written["finished"]
    (part,) = written["parts"]
    assert part["status"] == "finished"
    assert [each["what"] for each in part["findings"]] == ["exponentials", "draws", "draws"]


def test_an_error_and_a_limit_lose_only_what_was_not_measured(
    stub: Callable[[str], tuple[str, ...]], tmp_path: Path
) -> None:
    worker = stub(
        """print('not JSON'); print('{"what": "first"}', flush=True)
if sys.argv[1] == "fails": sys.exit("something broke")
if sys.argv[1] == "hangs": time.sleep(60)"""
    )
    findings = Findings(tmp_path / "results.json", "cpu", True, 1.0)
    sections = [
        Section(name=name, limit_s=1 if name == "hangs" else 20, alone=name == "last")
        for name in ("fails", "hangs", "last")
    ]
    lines: list[str] = []
    run_sections(sections, findings, jobs=2, worker=worker, tick=lines.append)
    written = read_findings(findings.path)

    assert [each["findings"] for each in written["parts"]] == [[{"what": "first"}]] * 3
    assert [each["status"] for each in written["parts"]] == ["failed", "over its limit", "finished"]
    assert written["parts"][0]["error"] == "exit code 1: something broke"
    assert written["parts"][1]["error"] == "ended after 1 s"
    assert lines[-1].startswith("last: finished after ")


def test_nothing_begins_when_the_minutes_are_over(
    stub: Callable[[str], tuple[str, ...]], tmp_path: Path
) -> None:
    findings = Findings(tmp_path / "results.json", "cpu", True, 0.01)
    run_sections(SECTIONS, findings, jobs=2, worker=stub("sys.exit(1)"))

    assert {each["status"] for each in findings.parts} == {"no time left"}


def test_findings_are_in_the_file_while_their_process_runs_and_it_ends_with_the_command(
    stub: Callable[[str], tuple[str, ...]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = stub("""print('{"what": "first"}', flush=True); time.sleep(60)""")
    findings = Findings(tmp_path / "results.json", "cpu", True, 1.0)
    started: list[subprocess.Popen[bytes]] = []
    real = subprocess.Popen

    def popen(*arguments: Any, **keywords: Any) -> subprocess.Popen[bytes]:
        started.append(real(*arguments, **keywords))
        return started[-1]

    def interrupted(seconds: float) -> None:
        if findings.parts[0]["findings"]:
            raise KeyboardInterrupt

    monkeypatch.setattr(runner.subprocess, "Popen", popen)
    monkeypatch.setattr(runner.time, "sleep", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_sections([Section(name="any", limit_s=30)], findings, jobs=1, worker=worker)
    written = read_findings(findings.path)

    assert written["parts"][0]["findings"] == [{"what": "first"}]
    assert not written["finished"]
    assert started[0].poll() is not None


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["--device", "cpu"], "name a file"),
        (["--device", "cpu", "--json", "x", "--only", "nonsense"], "unknown section: 'nonsense'"),
        (["--device", "nonsense", "--json", "x"], "nonsense"),
        (["--page", "x", "--from", "missing.json"], "cannot be read"),
    ],
)
def test_what_cannot_be_done_is_refused_in_a_line(
    run: Callable[..., Result], arguments: list[str], why: str
) -> None:
    done = run(*arguments)

    assert done.exit_code == 2
    assert why in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("text", ["", "[]", '{"benchmark": "gpu", "format": 99}', '{"a": 1}'])
def test_a_file_with_other_contents_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "other.json").write_text(text)

    with pytest.raises(ValueError, match=r"other\.json"):
        read_findings(tmp_path / "other.json")


def test_draws_are_the_same_twice_and_depend_on_the_vocabulary(tmp_path: Path) -> None:
    once, again = (measured("draws", (), tmp_path)["findings"] for _ in range(2))

    assert once == again
    assert once[1]["tokens_sha256"] != once[2]["tokens_sha256"]
    assert draws._tokens_in_one_wave(None) == 0


def test_wheels_are_gathered_with_what_they_require_unless_they_are_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    metadata = {
        "Alpha": "Requires-Dist: beta>=2\nRequires-Dist: gamma; python_version < '3.12'\n"
        "Requires-Dist: delta; extra == 'more'\n",
        "beta": "",
        "there": "",
    }
    downloaded: list[str] = []

    def download(requirement: Requirement, python: str, folder: Path) -> Path:
        downloaded.append(f"{requirement}")
        path = folder / f"{requirement.name}-2.1-py3-none-any.whl"
        with zipfile.ZipFile(path, "w") as archive:
            name = f"{requirement.name}-2.1.dist-info/METADATA"
            archive.writestr(name, f"Name: {requirement.name}\n{metadata[requirement.name]}")
        return path

    monkeypatch.setattr(gather_wheels, "_download", download)
    have = gather_wheels.installed("beta==1.0\nThere==3.0\nodd @ file:///x\n# a comment\n")
    wanted = [Requirement("Alpha"), Requirement("there>=3"), Requirement("beta>=2")]
    gather_wheels.gather(wanted, have, "3.12", tmp_path)

    assert have == {"beta": Version("1.0"), "there": Version("3.0")}
    assert downloaded == ["Alpha", "beta>=2"]
