"""A report in plain text. The data is in `Report`; nothing is found out here."""

from recorder.projections import Turn
from replay.verdict import Candidate, Divergence, Report

_OTHERS_SHOWN = 20


def render(report: Report) -> str:
    """The whole report, a line a turn, and the first divergence in full."""
    lines = [
        f"{report.replay} {report.run_id}: {report.verdict.upper()}",
        f"  {report.reason}",
        f"  {_seconds(report.duration_ms)}, recorded generation {_seconds(report.generation_ms)}",
    ]
    for each in report.differences:
        weight = "differs" if each.forbids else "differs (noted)"
        lines.append(f"  {each.field} {weight}: recorded {each.recorded}, now {each.replayed}")
    lines += [f"  altered: {each}" for each in report.altered]
    if report.floor is not None:
        lines.append(
            f"  floor {report.floor.version}: margin {report.floor.margin_eps:g} logits, "
            f"log-probability {report.floor.logprob_floor:g} nats"
        )
    for turn in report.turns:
        lines.append(
            f"  turn {turn.turn:>3}  {turn.verdict:<10} {turn.tokens:>4} tokens  "
            f"{turn.mismatches} differ, {turn.near_ties} near ties, "
            f"log-probability off by {turn.logprob_difference_max:.1e} at most"
        )
    if report.first is not None:
        lines += ["", *_in_full(report.first), f"  repeat: {report.repro}"]
    others = report.divergences[1:]
    if others:
        lines += ["", f"then {len(others)} more:"]
        lines += [f"  {_in_short(each)}" for each in others[:_OTHERS_SHOWN]]
        if len(others) > _OTHERS_SHOWN:
            lines.append(f"  … {len(others) - _OTHERS_SHOWN} not shown; --json lists all")
    return "\n".join(lines)


def render_turn(turn: Turn) -> str:
    """A rebuilt turn as people read it."""
    stop = "cut off" if turn.finished is None else turn.finished.stop_reason
    head = f"turn {turn.number}: {len(turn.prompt_ids)} prompt tokens, {len(turn.tokens)} "
    lines = [f"{head}generated ({stop})"]
    if turn.pruned is not None:
        lines.append(f"  (history pruned by {turn.pruned.policy}: {turn.pruned.reason})")
    lines += [f"  {message.role}: {message.content}" for message in turn.messages]
    reply = turn.reply_text
    lines.append(f"  assistant: {reply if reply is not None else '(text not recorded yet)'}")
    return "\n".join(lines)


def _in_full(each: Divergence) -> list[str]:
    margin = "filtered by the sampler" if each.margin is None else f"{each.margin:.3g} logits"
    if each.boundary_gap is not None:
        margin += f", {each.boundary_gap:.3g} logits short of the boundary"
    lines = [
        f"first divergence: turn {each.turn}, token {each.step}, position {each.position} "
        f"({each.kind})",
        f"  after     {each.text_before!r}",
        f"  recorded  {_token(each.recorded)}",
        f"  replayed  {_token(each.replayed)}",
        f"  margin    {margin}",
        f"  log-probability of the recorded token off by {each.logprob_difference:.3g} nats"
        + _processed(each.processed_difference),
        f"  {'recorded candidates':<38}{'replayed candidates'}",
    ]
    pairs = max(len(each.recorded_candidates), len(each.replayed_candidates))
    for rank in range(pairs):
        left = _ranked(each.recorded_candidates, rank)
        lines.append(f"  {left:<38}{_ranked(each.replayed_candidates, rank)}")
    return lines


def _in_short(each: Divergence) -> str:
    margin = "filtered" if each.margin is None else f"margin {each.margin:.3g}"
    return (
        f"turn {each.turn} token {each.step}: {each.kind}, {each.recorded.text!r} / "
        f"{each.replayed.text!r}, {margin}, off by {each.logprob_difference:.1e}"
    )


def _processed(difference: float | None) -> str:
    return "" if difference is None else f", after the processors by {difference:.3g}"


def _token(candidate: Candidate) -> str:
    return f"{candidate.text!r} (id {candidate.token_id}, log-probability {candidate.logprob:.4f})"


def _ranked(candidates: tuple[Candidate, ...], rank: int) -> str:
    if rank >= len(candidates):
        return ""
    return f"{candidates[rank].logprob:9.4f}  {candidates[rank].text!r}"


def _seconds(milliseconds: float) -> str:
    return f"{milliseconds / 1000.0:.1f} s"
