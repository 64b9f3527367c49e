"""Where a report goes: to standard output, and into the files that were asked for."""

import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import tokentape as tt
from tokentape import output

if TYPE_CHECKING:
    from tokentape.replay import Report

JUnitOption = Annotated[
    Path | None,
    typer.Option("--junit", metavar="FILE", help="Also write the report as JUnit XML, for CI."),
]
HtmlOption = Annotated[
    Path | None,
    typer.Option("--html", metavar="FILE", help="Also write the report as a self-contained page."),
]

# How our own files begin: whatever begins otherwise is not replaced.
_JUNIT_BEGINS = b"<?xml"
_HTML_BEGINS = b"<!doctype html>"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportFiles:
    """The files to write, and the empty ones beside them that show that they can be written."""

    junit: Path | None
    html: Path | None
    asides: dict[Path, Path]

    def publish(self, report: "Report", *, as_json: bool, allow_drift: bool = False) -> None:
        """Write the report into each, aside and renamed, and print it, even where that fails.

        Raises ReplayError.
        """
        try:
            self._write_all(report, allow_drift)
        finally:
            _print(report, as_json)

    def _write_all(self, report: "Report", allow_drift: bool) -> None:
        from tokentape.replay.reports.html import html_report
        from tokentape.replay.reports.junit import junit_xml

        if self.junit is not None:
            self._write(self.junit, junit_xml([report], allow_drift=allow_drift))
        if self.html is not None:
            self._write(self.html, html_report([report]))

    def _write(self, path: Path, text: str) -> None:
        aside = self.asides[path]
        try:
            aside.write_bytes(text.encode())
            aside.replace(path)
        except OSError as error:
            raise _cannot_write(path, error) from None


@contextmanager
def report_files(junit: Path | None, html: Path | None) -> Iterator[ReportFiles]:
    """Make sure, before anything long is begun, that the files can be written.

    Parent folders are made, and an earlier report is replaced. Raises ReplayError where a file
    cannot be written, and where there is something else, which may be the recording itself.
    """
    asides: dict[Path, Path] = {}
    try:
        yield ReportFiles(
            junit=None if junit is None else _claim(junit, _JUNIT_BEGINS, asides),
            html=None if html is None else _claim(html, _HTML_BEGINS, asides),
            asides=asides,
        )
    finally:
        for aside in asides.values():
            aside.unlink(missing_ok=True)


def _claim(path: Path, beginning: bytes, asides: dict[Path, Path]) -> Path:
    """The path without its links, an empty file beside it noted in `asides`."""
    try:
        target = path.resolve()
        if target in asides:
            raise tt.ReplayError(f"{path} cannot be both reports: give each a file of its own")
        if target.exists():
            _refuse_to_lose(path, target, beginning)
        target.parent.mkdir(parents=True, exist_ok=True)
        aside = target.parent / f".writing-{uuid.uuid4().hex}"
        aside.open("xb").close()
    except (OSError, RuntimeError, ValueError) as error:
        raise _cannot_write(path, error) from None
    asides[target] = aside
    return target


def _refuse_to_lose(path: Path, target: Path, beginning: bytes) -> None:
    if not target.is_file():
        raise tt.ReplayError(f"cannot write {path}: it is no file")
    with target.open("rb") as file:
        found = file.read(len(beginning))
    if found not in (b"", beginning):
        raise tt.ReplayError(
            f"{path} is there already, and is no such report: move it away, or give another name"
        )


def _cannot_write(path: Path, error: Exception) -> "tt.ReplayError":
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return tt.ReplayError(f"cannot write {path}: {reason}")


def _print(report: "Report", as_json: bool) -> None:
    if as_json:
        output.print_json(report.to_dict())
        return
    from tokentape.replay.reports.terminal import render

    encoding = sys.stdout.encoding or "utf-8"
    # A terminal that lacks a character gets its escape.
    printable = render(report).encode(encoding, "backslashreplace").decode(encoding)
    sys.stdout.write(printable + "\n")
