"""Options that `verify` and `regenerate` share."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, fields
from typing import TypedDict

from tokentape.generation.tools.interface import ToolInterface
from tokentape.recorder.near_names import nearest
from tokentape.recorder.plain_values import plain_value
from tokentape.replay.checking.turns import TurnProcessors
from tokentape.replay.results.report import FingerprintDifference, Floor

OnFingerprintDifference = Callable[[Sequence[FingerprintDifference]], None]
"""Called with the fingerprints that differ, perhaps none, before the model runs."""


class CheckKeywords(TypedDict, total=False):
    """The keywords of `verify` and `regenerate` that make their `CheckOptions`."""

    turns: Sequence[int] | None
    floor: Floor | None
    ignore: Collection[str]
    tools: ToolInterface | None
    processors: TurnProcessors | None
    interventions: bool
    on_fingerprint_difference: OnFingerprintDifference | None


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckOptions:
    """What to replay of a run, and how to compare it."""

    turns: Sequence[int] | None = None
    """Numbers of the turns to replay; all turns with tokens for None."""
    floor: Floor | None = None
    """The noise of this machine and model, as `calibrate` measures it; the built-in one for None,
    which float32 attention models have."""
    ignore: Collection[str] = ()
    """Fingerprints that may differ: the report names them, and the verdict does not depend on
    them."""
    tools: ToolInterface | None = None
    """Tools to run again and compare; for None the recorded results are used."""
    processors: TurnProcessors | None = None
    """Creates the user's own logits processors for a turn that was generated with some."""
    interventions: bool = True
    """Whether to apply the recorded interventions again."""
    on_fingerprint_difference: OnFingerprintDifference | None = None

    def __post_init__(self) -> None:
        numbers = plain_value(self.turns)
        object.__setattr__(self, "turns", [numbers] if isinstance(numbers, int) else numbers)


def check_options(function: str, keywords: CheckKeywords) -> CheckOptions:
    """Return the options. Raise TypeError if the function was given an unknown keyword."""
    known = [field.name for field in fields(CheckOptions)]
    unknown = [name for name in keywords if name not in known]
    if unknown:
        raise TypeError(
            f"{function}() has no option {unknown[0]!r}{nearest(unknown[0], known)}: its options "
            f"are {', '.join(known)}"
        )
    return CheckOptions(**keywords)


OPTION_DEFAULTS: dict[str, object] = {each.name: each.default for each in fields(CheckOptions)}
"""The defaults of the options, for signatures that list them."""
