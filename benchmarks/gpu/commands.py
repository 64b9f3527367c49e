"""The command `gpu`."""

import os
import signal
import sys
from functools import reduce
from pathlib import Path
from types import FrameType
from typing import Annotated, NoReturn

import torch
import typer

from benchmarks.gpu.findings import Findings, completed, read_findings
from benchmarks.gpu.page import page
from benchmarks.gpu.promises import broken, not_measured
from benchmarks.gpu.runner import run_sections
from benchmarks.gpu.sections import SECTIONS, section_named

_MINUTES = 8.0
_CORES_PER_JOB = 3


def gpu_command(
    json_path: Annotated[
        Path | None, typer.Option("--json", help="Write the findings to this file, each at once.")
    ] = None,
    device: Annotated[str, typer.Option(help="cuda, cuda:1 or cpu.")] = "cuda",
    minutes: Annotated[
        float, typer.Option(min=0.1, help="Begin nothing after these minutes, and end the rest.")
    ] = _MINUTES,
    only: Annotated[
        list[str] | None, typer.Option(help="Only this section; may be repeated.")
    ] = None,
    tiny: Annotated[
        bool, typer.Option("--tiny", help="A dry run at tiny sizes, on a CPU in two minutes.")
    ] = False,
    jobs: Annotated[int | None, typer.Option(min=1, help="Checks that run side by side.")] = None,
    page_path: Annotated[
        Path | None, typer.Option("--page", help="Write docs/gpu.md from --from; measure nothing.")
    ] = None,
    sources: Annotated[
        list[Path] | None,
        typer.Option(
            "--from",
            help="Findings for --page; without: not run yet. A second file fills in the parts "
            "that did not finish in the first.",
        ),
    ] = None,
) -> None:
    """Check and measure everything that depends on a GPU, and write one JSON file."""
    if page_path is not None:
        _write_page(page_path, sources or [])
        return
    if json_path is None:
        _refuse("name a file for the findings: --json PATH")
    try:
        chosen = tuple(section_named(name) for name in only) if only else SECTIONS
        kind = torch.device(device).type
    except (ValueError, RuntimeError) as error:
        _refuse(str(error).splitlines()[0])
    if kind == "cuda" and not torch.cuda.is_available():
        _refuse("torch finds no CUDA device here; --device cpu --tiny is a dry run")
    json_path.parent.mkdir(parents=True, exist_ok=True)
    findings = Findings(json_path, device, tiny, minutes)
    jobs = jobs or max(1, (os.cpu_count() or 1) // _CORES_PER_JOB)
    before = signal.signal(signal.SIGTERM, _end)
    try:
        run_sections(chosen, findings, jobs=jobs, tick=_say)
    finally:
        signal.signal(signal.SIGTERM, before)
    figures = findings.to_json()
    wrong = [*not_measured(figures), *(f"not as promised: {each}" for each in broken(figures))]
    for each in wrong:
        _say(each)
    raise typer.Exit(1 if wrong else 0)


def _write_page(path: Path, sources: list[Path]) -> None:
    try:
        runs = [read_findings(each) for each in sources]
        figures = reduce(completed, runs) if runs else None
    except ValueError as error:
        _refuse(str(error))
    path.write_text(page(figures), encoding="utf-8")


def _say(line: str) -> None:
    sys.stderr.write(line + "\n")


def _refuse(why: str) -> NoReturn:
    _say(f"benchmarks: {why}")
    raise typer.Exit(2)


def _end(number: int, frame: FrameType | None) -> None:
    """End the processes of all parts before this one ends."""
    sys.exit(128 + number)
