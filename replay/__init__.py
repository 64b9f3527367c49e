"""Makes it happen again and compares: rebuild, verify, regenerate, calibrate, diff.

Here is what needs events alone. What needs torch, which takes seconds to import, is taken from its
file: `replay.verify`, `replay.regenerate`, `replay.calibrate`, `replay.checking.noise_floor`.
"""

from tokentape.replay.errors import NothingToReplayError, ReplayError
from tokentape.replay.rebuild import Rebuilt, rebuild
from tokentape.replay.run_diff.diff import diff
from tokentape.replay.run_diff.diff_types import Diff
from tokentape.replay.verdict import Cause, Divergence, Floor, Report, TurnVerdict, Verdict

__all__ = (
    "Cause",
    "Diff",
    "Divergence",
    "Floor",
    "NothingToReplayError",
    "Rebuilt",
    "ReplayError",
    "Report",
    "TurnVerdict",
    "Verdict",
    "diff",
    "rebuild",
)
