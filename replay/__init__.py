"""Makes it happen again and compares: rebuild, verify, regenerate, calibrate."""

from replay.calibrate import calibrate
from replay.errors import NothingToReplayError, ReplayError
from replay.floor import read_floor, write_floor
from replay.rebuild import Rebuilt, rebuild
from replay.regenerate import regenerate
from replay.verdict import Cause, Divergence, Floor, Report, TurnVerdict, Verdict
from replay.verify import verify

__all__ = (
    "Cause",
    "Divergence",
    "Floor",
    "NothingToReplayError",
    "Rebuilt",
    "ReplayError",
    "Report",
    "TurnVerdict",
    "Verdict",
    "calibrate",
    "read_floor",
    "rebuild",
    "regenerate",
    "verify",
    "write_floor",
)
