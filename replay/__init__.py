"""Replays: rebuild, verify, regenerate, calibrate and diff.

This package exports what needs events alone. Functions that need torch, which takes seconds to
import, are imported from their modules, such as `tokentape.replay.verify`.
"""

from tokentape.replay.rebuild import Rebuilt, rebuild
from tokentape.replay.recorded.loaded_run import LoadedRun, load_run
from tokentape.replay.reports.renderers import set_renderers
from tokentape.replay.results.errors import NothingToReplayError, ReplayError
from tokentape.replay.results.report import Cause, Divergence, Floor, Report, TurnVerdict
from tokentape.replay.results.verdict import CauseKind, DivergenceKind, Verdict
from tokentape.replay.run_diff.diff import diff
from tokentape.replay.run_diff.diff_types import Diff

set_renderers()

__all__ = (
    "Cause",
    "CauseKind",
    "Diff",
    "Divergence",
    "DivergenceKind",
    "Floor",
    "LoadedRun",
    "NothingToReplayError",
    "Rebuilt",
    "ReplayError",
    "Report",
    "TurnVerdict",
    "Verdict",
    "diff",
    "load_run",
    "rebuild",
)
