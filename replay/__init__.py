"""Makes it happen again and compares: rebuild, verify, regenerate, calibrate, diff.

Here is what needs events alone. What needs torch, which takes seconds to import, is taken from its
file: `replay.verify`, `replay.regenerate`, `replay.calibrate`, `replay.floor`.
"""

from tokentape.replay.diff import diff
from tokentape.replay.differences import Diff
from tokentape.replay.errors import NothingToReplayError, ReplayError
from tokentape.replay.rebuild import Rebuilt, rebuild
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
