"""The options `--junit` and `--html`: write a report to files, and print it."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import tokentape as tt
from tokentape import output
from tokentape.commands.output_paths import output_path
from tokentape.recorder.atomic_write import AtomicFile
from tokentape.screen import out

if TYPE_CHECKING:
    from tokentape.replay import Report

JUnitOption = Annotated[
    Path | None,
    typer.Option(
        "--junit",
        parser=output_path,
        metavar="FILE",
        help="Also write the report as JUnit XML, for CI.",
    ),
]
HtmlOption = Annotated[
    Path | None,
    typer.Option(
        "--html",
        parser=output_path,
        metavar="FILE",
        help="Also write the report as one HTML page.",
    ),
]

# The first bytes of a report: a file that begins otherwise is not replaced.
_JUNIT_BEGINS = b"<?xml"
_HTML_BEGINS = b"<!doctype html>"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportFiles:
    """The report files to write, opened under temporary names before the replay begins."""

    junit: AtomicFile | None
    html: AtomicFile | None

    def publish(self, report: "Report", *, as_json: bool, allow_drift: bool = False) -> None:
        """Write the report into each file, and print it even where a file cannot be written.

        Raise ReplayError where a file cannot be written.
        """
        try:
            self.write([report], allow_drift=allow_drift)
        finally:
            _print(report, as_json)

    def write(
        self,
        reports: "Sequence[Report]",
        *,
        errors: Sequence[tuple[str, str]] = (),
        allow_drift: bool = False,
    ) -> None:
        """Write reports into each file, and into JUnit also the runs without one, with their error.

        Raise ReplayError where a file cannot be written.
        """
        from tokentape.replay.reports.html import html_report
        from tokentape.replay.reports.junit import junit_xml

        if self.junit is not None:
            _write(self.junit, junit_xml(reports, errors=errors, allow_drift=allow_drift))
        if self.html is not None:
            _write(self.html, html_report(reports))


@contextmanager
def report_files(junit: Path | None, html: Path | None) -> Iterator[ReportFiles]:
    """Open the report files before the long replay, so that an error shows at once.

    Parent folders are created, and an earlier report is replaced. Raise ReplayError where a file
    cannot be written, and where the path has another kind of file, such as the recording itself.
    """
    with ExitStack() as stack:
        junit_file = None if junit is None else stack.enter_context(_open(junit, _JUNIT_BEGINS))
        html_file = None if html is None else stack.enter_context(_open(html, _HTML_BEGINS))
        if html_file is not None and junit_file is not None and html_file.path == junit_file.path:
            raise tt.ReplayError(f"{html} cannot be both reports: give each a file of its own")
        yield ReportFiles(junit=junit_file, html=html_file)


def _open(path: Path, beginning: bytes) -> AtomicFile:
    """Return the file to write, with the links of its path resolved."""
    try:
        target = path.resolve()
        if target.exists():
            _check_replaceable(path, target, beginning)
        target.parent.mkdir(parents=True, exist_ok=True)
        return AtomicFile(target)
    except (OSError, RuntimeError, ValueError) as error:
        raise _cannot_write(path, error) from None


def _write(file: AtomicFile, text: str) -> None:
    try:
        file.tmp_path.write_bytes(text.encode())
        file.commit()
    except OSError as error:
        raise _cannot_write(file.path, error) from None


def _check_replaceable(path: Path, target: Path, beginning: bytes) -> None:
    """Raise ReplayError if a path has anything but an empty file or an earlier report."""
    if not target.is_file():
        raise tt.ReplayError(f"cannot write {path}: it is not a file")
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
    from tokentape.replay.reports.terminal import render_lines

    out.toned(render_lines(report))
