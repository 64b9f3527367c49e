"""Comparison of a run with the seal that its reader noted elsewhere."""

from tokentape.recorder import TokentapeError
from tokentape.recorder.seals import SealPoint, SealReport, parse_seal


def seal_shortfall(expect: str, report: SealReport) -> str:
    """Return how a run falls short of an expected last seal; "" if that is its last seal.

    `expect` is a seal or the first 16 or more of its digits. Raise TokentapeError for any other
    text, and for digits that several seals begin with.
    """
    wanted = parse_seal(expect)
    found = [point for point in report.points if point.seal.startswith(wanted)]
    if len(found) > 1:
        raise TokentapeError(f"{len(found)} seals of run {report.run_id} begin with {expect!r}")
    if not found:
        return (
            f"no seal of the run is {wanted}: it was altered and sealed again, its end is missing, "
            "or it is another run"
        )
    return continued_after(found[0], report, "the expected seal")


def continued_after(point: SealPoint, report: SealReport, seal: str) -> str:
    """Return what follows in a run after a seal that covers its beginning; "" for nothing sealed.

    `seal` is how a message names that seal.
    """
    if point.seal == report.last_seal:
        return ""
    covered = f"its first {point.events:,} events"
    if point.last_turn is not None:
        covered += f", up to turn {point.last_turn},"
    last = report.points[-1]
    more = f"the {last.events - point.events:,} events after them"
    if last.turns > point.turns:
        more += f", up to turn {last.last_turn},"
    return f"the run was continued after {seal}: {covered} are as expected, {more} are not covered"
