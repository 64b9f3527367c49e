"""The evidence that causes are found in."""

from collections.abc import Sequence
from dataclasses import dataclass

from tokentape.generation import LoadedModel
from tokentape.replay.checking.check_turns import CheckedTurn
from tokentape.replay.checking.interventions import Interventions
from tokentape.replay.recorded.loaded_run import LoadedRun
from tokentape.replay.results.report import Cause, FingerprintDifference, Floor


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """Everything that a replay found."""

    run: LoadedRun
    lm: LoadedModel
    turns: Sequence[CheckedTurn]
    differences: Sequence[FingerprintDifference]
    contradictions: Sequence[Cause]
    floor: Floor | None
    """Without a floor the numbers show nothing: every difference may be noise."""
    interventions: Interventions
    known: Sequence[Cause] = ()
    """Causes that the replay found while it forwarded."""

    def differs(self, field: str) -> bool:
        """Return whether a fingerprint differs."""
        return any(each.field == field for each in self.differences)
