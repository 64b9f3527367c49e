"""Plain-text rendering of a `Report`, and of rebuilt turns."""

from collections.abc import Iterable, Iterator, Sequence

from tokentape.recorder.escapes import padded, single_line, visible, visible_lines
from tokentape.recorder.projections import Turn
from tokentape.replay.reports.divergence_text import in_full, in_short
from tokentape.replay.reports.row_text import rows_text
from tokentape.replay.reports.tones import Line, Tone, with_verdict_last
from tokentape.replay.results.report import (
    FingerprintDifference,
    Floor,
    Report,
    ToolDrift,
    TurnVerdict,
)
from tokentape.replay.results.verdict import Verdict

# Lines shown of each list that can be long; the rest is counted.
_SHOWN_MAX = 20
# Fingerprints and fields of tools can be long; the beginning of a sha256 identifies it.
_VALUE_COLUMNS = 64


def render(report: Report) -> str:
    """Return the report as text: one line a turn, the first divergence in full, the rest in short.

    A long report ends with its verdict again, and with the command that repeats it. Control
    characters and other invisible characters of recorded texts are escaped.
    """
    return "\n".join(text for text, _ in render_lines(report))


def render_lines(report: Report) -> list[Line]:
    """Return the lines of `render`, each with its tone."""
    repeat: list[Line] = []
    if report.repro:
        repeat.append((f"  repeat: {visible(report.repro)}", "plain"))
    (verdict, *head), tone = _head(report), _tone(report.verdict)
    lines: list[Line] = [(verdict, tone), *_plain(head), *_plain(_causes(report))]
    lines += _fingerprints(report.differences)
    lines += ((f"  altered: {visible(each)}", "bad") for each in report.altered)
    lines += _plain(_floor(report.floor))
    lines += _plain(rows_text(report) if report.replay == "retrace" else _flips(report))
    lines += ((f"  {_turn(turn)}", _turn_tone(turn)) for turn in report.turns)
    if report.first is not None:
        place, *details = in_full(report, report.first)
        lines += [("", "plain"), (place, "bad"), *_plain(details)]
    lines += repeat
    lines += _plain(_others(report))
    closing: list[Line] = [(verdict, tone)]
    if report.reason:
        closing.append((f"  {visible(report.reason)}", "plain"))
    shown = with_verdict_last(lines, [*closing, *repeat])
    return [(single_line(text), each) for text, each in shown]


def _plain(lines: Iterable[str]) -> list[Line]:
    return [(line, "plain") for line in lines]


def _tone(verdict: Verdict) -> Tone:
    if verdict is Verdict.NEAR_TIE:
        return "note"
    return "good" if verdict.passes else "bad"


def _turn_tone(turn: TurnVerdict) -> Tone:
    tone = _tone(turn.verdict)
    return "plain" if tone == "good" else tone


def _others(report: Report) -> list[str]:
    """Return lines about the divergences after the first, and about tools that differ."""
    lines: list[str] = []
    others = report.divergences[1:]
    if others:
        lines += ["", f"then {len(others):,} more:", *_capped(map(in_short, others), len(others))]
    if report.tools:
        count = len(report.tools)
        lines += ["", f"tools returned something else in {count:,} {_fields(count)}:"]
        lines += _capped(map(_tool, report.tools), count)
    return lines


def render_turn(turn: Turn) -> str:
    """Return a rebuilt turn as text."""
    stop = "cut off" if turn.finished is None else visible(turn.finished.stop_reason)
    head = f"turn {turn.number}: {len(turn.prompt_ids)} prompt tokens, {len(turn.tokens)} "
    lines = [f"{head}generated ({stop})"]
    lines += [f"  {line}" for line in turn.inside_model.lines()]
    if turn.pruned is not None:
        lines.append(f"  (history pruned by {turn.pruned.policy}: {visible(turn.pruned.reason)})")
    lines += [
        f"  {visible(message.role)}: {visible_lines(message.content)}" for message in turn.messages
    ]
    reply = turn.reply_text
    shown = "(text not recorded yet)" if reply is None else visible_lines(reply)
    lines.append(f"  assistant: {shown}")
    return "\n".join(lines)


def _head(report: Report) -> list[str]:
    names = [f"run {report.name}"] if report.name else []
    names += [f"model {report.model}"] if report.model else []
    lines = [f"{report.replay} {visible(report.run_id)}: {report.verdict.upper()}"]
    lines += [f"  {visible(report.reason)}"] if report.reason else []
    lines += [f"  {visible(', '.join(names))}"] if names else []
    lines += [f"  the recorded run: {visible(report.ending)}"] if report.ending else []
    lines.append(
        f"  {_seconds(report.duration_us)}, recorded generation {_seconds(report.generation_us)}"
    )
    return lines


def _causes(report: Report) -> list[str]:
    if not report.causes:
        return []
    lines = ["  likely causes, the likeliest first:"]
    for rank, cause in enumerate(report.causes, 1):
        lines.append(f"    {rank}. {visible(cause.name)}: {visible(cause.sentence)}")
    return lines


def _fingerprints(differences: Sequence[FingerprintDifference]) -> Iterator[Line]:
    for each in differences:
        weighs = each.forbids and not each.ignored
        yield (
            f"  {visible(each.field)} {_weight(each)}: recorded {_value(each.recorded)}, "
            f"now {_value(each.replayed)}",
            "bad" if weighs else "plain",
        )
        if each.detail:
            yield f"    {visible(each.detail)}", "plain"


def _weight(difference: FingerprintDifference) -> str:
    if difference.ignored:
        return "differs (ignored)"
    return "differs" if difference.forbids else "differs (noted)"


def _floor(floor: Floor | None) -> list[str]:
    if floor is None:
        return ["  floor: none known"]
    if not floor.tokens:
        return [f"  floor: no noise, on {visible(floor.measured_on)}"]
    return [
        f"  floor {visible(floor.version)} ({visible(floor.dtype)}): margin "
        f"{floor.margin_eps:g} logits, log-probability {floor.logprob_floor:g} nats",
        f"    measured on {visible(floor.measured_on)}: {floor.tokens:,} tokens, margins differ by "
        f"{floor.margin_noise:g} on average, log-probabilities by {floor.logprob_noise:g}",
    ]


def _flips(report: Report) -> list[str]:
    observed = sum(turn.near_ties for turn in report.turns)
    return [f"  picks within the noise: {observed:,} seen, {report.predicted_flips:.2g} predicted"]


def _turn(turn: TurnVerdict) -> str:
    line = (
        f"turn {turn.turn:>3}  {padded(turn.verdict, 12)} {turn.tokens:>6,} tokens  "
        f"{turn.mismatches} differ, {turn.near_ties} near ties, "
        f"margin {turn.margin_max:.1e} at most, "
        f"log-probability differs by {turn.logprob_difference_max:.1e} at most, "
        f"{turn.logprob_difference_mean:.1e} on average"
    )
    if turn.differing_rows is not None:
        line += f"; {turn.differing_rows:,} rows differ in some bit"
    if turn.generator_matches is False:
        line += "; the seed does not lead to the recorded end state"
    if turn.stop_matches is False:
        line += "; its settings do not stop it at its last token, for its stop reason"
    return line


def _tool(drift: ToolDrift) -> str:
    return (
        f"turn {drift.turn}: {visible(drift.tool)} ({visible(drift.call_id)}), "
        f"{visible(drift.field)}: recorded {_value(drift.recorded)}, now {_value(drift.replayed)}"
    )


def _fields(count: int) -> str:
    return "field" if count == 1 else "fields"


def _value(text: str) -> str:
    shown = visible(text[:_VALUE_COLUMNS])
    return shown if len(text) <= _VALUE_COLUMNS else f"{shown}… ({len(text):,} characters)"


def _capped(lines: Iterator[str], count: int) -> Iterator[str]:
    for _, line in zip(range(_SHOWN_MAX), lines, strict=False):
        yield f"  {line}"
    if count > _SHOWN_MAX:
        yield f"  … {count - _SHOWN_MAX:,} not shown; --json lists all"


def _seconds(microseconds: float) -> str:
    return f"{microseconds / 1_000_000:.1f} s"
