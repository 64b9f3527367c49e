"""The argument of each section: the device, its sizes, and the function that stores findings."""

import json
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, is_dataclass
from pathlib import Path
from typing import Any

import torch

_DIGITS = 6
_FRAMES = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """The surroundings of a section."""

    device: torch.device
    tiny: bool
    """Whether sizes are those of a dry run on a CPU."""
    dtype: str
    """The dtype of this part of the section; empty if it has no parts."""
    folder: Path
    """A folder of the whole benchmark for stores and models."""
    found: Callable[[Mapping[str, Any]], None]
    """Takes each finding, as plain values, and stores it at once."""

    @property
    def cuda(self) -> torch.device | None:
        """The device if it is one of CUDA, as `repeatable_attention` takes it."""
        return self.device if self.device.type == "cuda" else None

    @property
    def torch_dtype(self) -> torch.dtype:
        """The dtype of this part, for a model."""
        found: torch.dtype = getattr(torch, self.dtype)
        return found

    def measure(
        self, what: str, measured: Callable[..., Any], *arguments: Any, **labels: Any
    ) -> Any:
        """Call `measured`, store the values that it returns as a finding, and return them.

        They are a mapping or a dataclass. If it raises an error, the finding says so, and None is
        returned. `labels` and the dtype of the part tell findings of one name apart.
        """
        if self.dtype:
            labels = {"dtype": self.dtype} | labels
        try:
            values = measured(*arguments)
        except Exception as error:
            self.found(plain({"what": what, **labels, "error": described(error)}))
            return None
        shown = asdict(values) if is_dataclass(values) and not isinstance(values, type) else values
        self.found(plain({"what": what, **labels, **shown}))
        return values


def described(error: BaseException) -> str:
    """Return the first line of an error, and the innermost places that it came through."""
    first = (str(error).strip().splitlines() or [""])[0][:300]
    frames = traceback.extract_tb(error.__traceback__)[-_FRAMES:]
    places = " > ".join(f"{Path(each.filename).name}:{each.lineno}" for each in frames)
    return f"{type(error).__name__}: {first} ({places})"


def plain(value: Any) -> Any:
    """Return a value as JSON holds it; floats have six significant digits."""
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, float):
        rounded = float(f"{value:.{_DIGITS}g}")
        return rounded if abs(rounded) < float("inf") else str(rounded)
    if isinstance(value, Mapping):
        return {str(name): plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    return value if type(value) in (int, str) else str(value)


def print_finding(finding: Mapping[str, Any]) -> None:
    """Write a finding as a line to standard output."""
    sys.stdout.write(json.dumps(finding) + "\n")
    sys.stdout.flush()
