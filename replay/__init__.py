"""Makes it happen again and compares: rebuild, verify, regenerate."""

from replay.errors import NothingToReplayError, ReplayError
from replay.rebuild import Rebuilt, rebuild
from replay.regenerate import regenerate
from replay.verdict import Divergence, Report, TurnVerdict, Verdict
from replay.verify import verify

__all__ = (
    "Divergence",
    "NothingToReplayError",
    "Rebuilt",
    "ReplayError",
    "Report",
    "TurnVerdict",
    "Verdict",
    "rebuild",
    "regenerate",
    "verify",
)
