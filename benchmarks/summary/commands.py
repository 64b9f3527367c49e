"""The commands `all` and `page`."""

import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Annotated, NoReturn

import torch
import typer

from benchmarks.summary.page import page
from benchmarks.summary.parts import PARTS, part_named
from benchmarks.summary.results_file import read_results
from benchmarks.summary.runner import run_parts


def all_command(
    json_path: Annotated[
        Path, typer.Option("--json", help="The file of results; written again after each part.")
    ],
    only: Annotated[list[str] | None, typer.Option(help="Only this part; may be repeated.")] = None,
    rounds: Annotated[
        int | None, typer.Option(min=1, help="Rounds of the parts that have rounds.")
    ] = None,
    again: Annotated[
        bool, typer.Option("--again", help="Also run parts that the file has figures of.")
    ] = False,
) -> None:
    """Run every benchmark, each in a process of its own, and write one JSON file.

    A part that fails, or lacks a tool, is in the file with its reason; the others go on. Parts that
    the file has figures of are not run again, so that a run that was ended continues.
    """
    try:
        parts = [part_named(name) for name in only] if only else list(PARTS)
        before = signal.signal(signal.SIGTERM, _end)
        try:
            unfinished = run_parts(
                parts,
                json_path,
                threads=torch.get_num_threads(),
                rounds=rounds,
                again=again,
                say=_say,
            )
        finally:
            signal.signal(signal.SIGTERM, before)
    except (ValueError, OSError) as error:
        _refuse(str(error))
    raise typer.Exit(1 if unfinished else 0)


def page_command(
    source: Annotated[Path, typer.Option("--from", help="The file of results.")],
    page_path: Annotated[Path, typer.Option("--page", help="The page to write.")],
) -> None:
    """Write docs/benchmarks.md from a file of results; measure nothing."""
    try:
        if not source.is_file():
            raise ValueError(f"there is no file {source}")
        page_path.write_text(page(read_results(source)), encoding="utf-8")
    except (ValueError, OSError) as error:
        _refuse(str(error))


def _say(line: str) -> None:
    sys.stderr.write(f"benchmarks: {line}\n")
    sys.stderr.flush()


def _refuse(why: str) -> NoReturn:
    _say(why)
    raise typer.Exit(2)


def _end(number: int, frame: FrameType | None) -> None:
    """End the process of the running part before this one ends."""
    sys.exit(128 + number)
