"""docs/gpu.md, written from the findings of the benchmark or, without any, saying that it waits."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks.gpu import tables
from benchmarks.gpu.findings import found
from benchmarks.gpu.promises import broken, not_measured, part_name

_Figures = Mapping[str, Any]

_INTRODUCTION = (
    "What `python -m benchmarks gpu` measured. The page is written by that command, from the file "
    "of a run."
)
_FOLDER = Path(__file__).parent


def page(figures: _Figures | None) -> str:
    """Return the text of the page: the figures of a run on a GPU, or that there was no run."""
    lines = ["# GPUs", "", _INTRODUCTION, ""]
    lines += [_text("not_run.md")] if figures is None else [*_results(figures), ""]
    return "\n".join((*lines, _text("about.md")))


def _text(name: str) -> str:
    return (_FOLDER / name).read_text(encoding="utf-8")


def _results(figures: _Figures) -> Iterator[str]:
    """Yield the lines on one run."""
    yield from _what_ran(figures)
    for title, section in tables.TABLES.items():
        rows = list(section(figures))
        if len(rows) > tables.HEADING_LINES:
            yield from ("", f"## {title}", "", *rows)


def _what_ran(figures: _Figures) -> Iterator[str]:
    environment = next(found(figures, "environment", "environment"), {})
    card = environment.get("gpu") or environment.get("cpu") or figures["device"]
    sizes = "at tiny sizes, as a dry run" if figures["size"] == "tiny" else "at full size"
    if figures["device"].partition(":")[0] != "cuda":
        sizes += ", **not on a GPU**"
    yield (
        f"Run on {figures['day']} on {card}, {sizes}, in {figures['seconds'] / 60:.1f} minutes: "
        f"Python {environment.get('python', '?')}, torch {environment.get('torch', '?')}, "
        f"transformers {environment.get('transformers', '?')}, driver "
        f"{environment.get('driver', 'none')}."
    )
    if not figures["finished"]:
        yield "The run was ended before it was complete."
    yield ""
    yield from ("| part | status | seconds | findings | errors |", "|---|---|---|---|---|")
    for each in figures["parts"]:
        errors = sum("error" in one for one in each["findings"])
        counts = f"{each['seconds']:.0f} | {len(each['findings'])} | {errors}"
        status = each["status"]
        if "taken_from" in each:
            status += f" in another run on {each['taken_from']}"
        yield f"| {part_name(each)} | {status} | {counts} |"
    for title, lines in (
        ("Not measured", not_measured(figures)),
        ("Not as promised", broken(figures)),
    ):
        listed = [f"- {line}" for line in lines]
        if listed:
            yield from ("", f"{title}:", "", *listed)
