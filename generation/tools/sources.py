"""Digests of the source of tools, and how the tools of two runs differ."""

import hashlib
import inspect
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from tokentape.generation.errors import PromptError, ToolSourceWarning
from tokentape.recorder.escapes import visible

_DIGITS = 8


def source_sha256(function: Callable[..., Any]) -> str:
    """Return the sha256 of a function's source, with its decorators.

    Empty if Python cannot find the source, as at its prompt, and for a function of tokentape, whose
    version is recorded.
    """
    if str(getattr(function, "__module__", "")).startswith("tokentape."):
        return ""
    try:
        source = inspect.getsource(function)
        return hashlib.sha256(source.encode("utf-8", "backslashreplace")).hexdigest()
    except (OSError, TypeError, SyntaxError, IndexError):
        return ""


def source_changes(recorded: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return a sentence for the tools, and for each file of tools, that differ from the recorded.

    Both are mappings as `ToolInterface.sources` returns them. A tool without a recorded source is
    left out.
    """
    own: list[str] = []
    files: dict[str, list[str]] = {}
    for name, old in recorded.items():
        new = now.get(name)
        if not isinstance(old, Mapping) or not isinstance(new, Mapping):
            continue
        if _differ(old, new, "sha256"):
            own.append(visible(str(name)))
        elif _differ(old, new, "file_sha256"):
            change = (
                f"the file {visible(str(new.get('file')))} (sha256 {_digits(new)}, recorded "
                f"{visible(str(old.get('file')))} with {_digits(old)})"
            )
            files.setdefault(change, []).append(visible(str(name)))
    changes = [f"the source of {_listed(own)} is not the recorded one"] if own else []
    changes += (
        f"{change} of {_listed(names)} is not the recorded one" for change, names in files.items()
    )
    return changes


def _listed(names: Sequence[str]) -> str:
    return f"the tool{'' if len(names) == 1 else 's'} {', '.join(names)}"


def _digits(source: Mapping[str, Any]) -> str:
    return f"{visible(str(source['file_sha256']))[:_DIGITS]}…"


def warn_of_source_changes(recorded: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Warn of each tool whose source differs from the recorded one."""
    for each in source_changes(recorded, now):
        warnings.warn(f"{each}; results may differ", ToolSourceWarning, stacklevel=4)


def missing_tools(run_id: str, names: Iterable[str], sources: Mapping[str, Any]) -> PromptError:
    """Return the error of a run that is continued without some of its tools."""
    names = sorted(names)
    files = files_of(sources, names)
    where = f", of {' and '.join(files)}" if files else ""
    listed = ", ".join(map(visible, names))
    return PromptError(
        f"run {run_id} was begun with tools: missing here are {listed}{where}; give them with "
        "--tools FILE (tools=)"
    )


def files_of(sources: Mapping[str, Any], names: Iterable[str]) -> list[str]:
    """Return the names of the files that tools were recorded with, once each, to be shown."""
    found = (sources.get(name) for name in names)
    files = (each.get("file") for each in found if isinstance(each, Mapping))
    return list(dict.fromkeys(visible(str(each)) for each in files if each))


def _differ(old: Mapping[str, Any], new: Mapping[str, Any], field: str) -> bool:
    """Return whether both have the field, with different values."""
    sides = old.get(field), new.get(field)
    return all(sides) and sides[0] != sides[1]
