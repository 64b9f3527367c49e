"""The findings that contradict a promise of tokentape, and the parts that were not measured."""

from collections.abc import Iterator, Mapping
from typing import Any

from benchmarks.gpu.findings import FINISHED, good
from benchmarks.gpu.retraces import WORKSPACE

_Figures = Mapping[str, Any]
_NO_LABELS = ("what", "error")


def not_measured(figures: _Figures) -> Iterator[str]:
    """Yield a line for each part that did not finish, and for each finding that is an error."""
    for each in figures["parts"]:
        if each["status"] != FINISHED:
            yield f"{part_name(each)}: {each['status']}{_quoted(each['error'])}"
        for one in each["findings"]:
            if "error" in one:
                labels = (str(value) for name, value in one.items() if name not in _NO_LABELS)
                name = f"{each['section']}, {one['what']} ({', '.join(labels)})"
                yield f"{name}{_quoted(one['error'])}"


def broken(figures: _Figures) -> Iterator[str]:
    """Yield a line for each finding that is not what tokentape promises."""
    for section in ("parity", "retraces", "deterministic", "turns"):
        for each in good(figures, section, "retrace"):
            if each["verdict"] != "exact" and each.get("where") != WORKSPACE:
                labels = [each[name] for name in ("family", "where", "dtype") if name in each]
                name = ", ".join((f"{section}, retrace", *labels))
                rows = f"{each['rows_that_differ']} of {each['tokens']} rows differ"
                yield f"{name}: {each['verdict']}, {rows}; {each['reason'] or each['first_row']}"
    for each in good(figures, "parity", "generate"):
        for cell in each["not_passing"]:
            yield f"parity with generate, {cell}"
    for each in good(figures, "faults", "fault"):
        if not each["right"]:
            said = f"{each['verdict']}, cause {each['cause'] or 'none'}"
            yield f"fault in {each['dtype']}, {each['fault']}: {said}"
    for section in ("speed", "memory"):
        for each in good(figures, section, "step"):
            if not each["same_tokens"]:
                yield f"{section}, {each['shape']}, {each['sampler']}: other tokens than generate"


def part_name(entry: Mapping[str, Any]) -> str:
    """Return the section and the dtypes of a part."""
    return " ".join((entry["section"], *entry["dtypes"]))


def _quoted(text: str) -> str:
    return f": `{text.replace('`', chr(39))}`" if text else ""
