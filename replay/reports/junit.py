"""Reports as JUnit XML for CI servers.

Each recording is a suite, with one case for each turn and one for the recording as a whole. The
numbers of a turn are in its `system-out`, as lines that test managers read as properties, since the
schema has no properties of cases.
"""

from collections.abc import Iterator, Sequence
from xml.etree import ElementTree

from tokentape.recorder.escapes import visible
from tokentape.replay.reports.divergence_text import in_full, in_short
from tokentape.replay.results.report import Divergence, Report, TurnVerdict
from tokentape.replay.results.verdict import Verdict

_OTHERS_MAX = 20
_WHOLE = "the recording as a whole"


def junit_xml(
    reports: Sequence[Report],
    *,
    errors: Sequence[tuple[str, str]] = (),
    allow_drift: bool = False,
) -> str:
    """Return one JUnit file for all reports; with `allow_drift` a drifted turn passes.

    A suite has a failure or an error if, and only if, its report does not pass. `errors` name the
    runs that could not be replayed, each with the reason.
    """
    root = ElementTree.Element("testsuites", name="tokentape")
    for report in reports:
        root.append(_suite(report, allow_drift))
    for run, reason in errors:
        root.append(_error_suite(run, reason))
    for count in ("tests", "failures", "errors"):
        root.set(count, str(sum(int(suite.get(count, 0)) for suite in root)))
    root.set("time", _seconds(sum(report.duration_us for report in reports)))
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(root, "unicode") + "\n"


def _suite(report: Report, allow_drift: bool) -> ElementTree.Element:
    cases = [_turn_case(report, turn, allow_drift) for turn in report.turns]
    turns_fail = any(case.find("failure") is not None for case in cases)
    cases.insert(0, _whole_case(report, turns_fail, allow_drift))
    suite = ElementTree.Element(
        "testsuite",
        name=visible(f"{report.replay} {report.name or report.run_id}"),
        id=visible(report.run_id),
        tests=str(len(cases)),
        failures=str(sum(case.find("failure") is not None for case in cases)),
        errors=str(sum(case.find("error") is not None for case in cases)),
        skipped="0",
        time=_seconds(report.duration_us),
    )
    properties = ElementTree.SubElement(suite, "properties")
    for name, value in _properties(report):
        ElementTree.SubElement(properties, "property", name=name, value=visible(value))
    suite.extend(cases)
    return suite


def _error_suite(run: str, reason: str) -> ElementTree.Element:
    """Return the suite of a run without a report."""
    suite = ElementTree.Element(
        "testsuite",
        name=visible(run),
        tests="1",
        failures="0",
        errors="1",
        skipped="0",
        time=_seconds(0),
    )
    case = ElementTree.SubElement(
        suite, "testcase", classname=visible(run), name=_WHOLE, time=_seconds(0)
    )
    _fail(case, "error", "failed", reason, [])
    return suite


def _properties(report: Report) -> Iterator[tuple[str, str]]:
    yield "run_id", report.run_id
    yield "replay", report.replay
    yield "verdict", report.verdict
    yield "model", report.model
    if report.run_status:
        yield "run_status", report.run_status
    if report.floor is not None:
        yield "floor", report.floor.version
        yield "margin_eps", f"{report.floor.margin_eps:g}"
        yield "logprob_floor", f"{report.floor.logprob_floor:g}"
    yield "predicted_flips", f"{report.predicted_flips:g}"
    yield "ignored", ", ".join(report.ignored)
    yield "repro", report.repro


def _whole_case(report: Report, turns_fail: bool, allow_drift: bool) -> ElementTree.Element:
    """Return the case of the recording: fingerprints, contradictions, near ties, missing floor."""
    # All turns are checked in one forward, so only this case has a time.
    case = _case(report, _WHOLE, report.duration_us)
    lines = [f"altered: {each}" for each in report.altered]
    lines += [
        f"{each.field}: recorded {each.recorded}, now {each.replayed}"
        + (f" ({each.detail})" if each.detail else "")
        for each in report.differences
        if each.forbids and not each.ignored
    ]
    drift_allowed = allow_drift and report.verdict is Verdict.DRIFTED
    if not report.passes and not drift_allowed and (lines or not turns_fail):
        element = "error" if report.verdict is Verdict.INCOMPARABLE else "failure"
        causes = [f"likely cause: {each.sentence}" for each in report.causes]
        _fail(case, element, report.verdict, report.reason, [*lines, *causes, _repeat(report)])
    return case


def _turn_case(report: Report, turn: TurnVerdict, allow_drift: bool) -> ElementTree.Element:
    case = _case(report, f"turn {turn.turn}", 0)
    divergences = [each for each in report.divergences if each.turn == turn.turn]
    if not (turn.verdict.passes or (allow_drift and turn.verdict is Verdict.DRIFTED)):
        cause = next((each for each in report.causes if each.turn in (turn.turn, None)), None)
        message = report.reason if cause is None else cause.sentence
        _fail(
            case,
            "failure",
            turn.verdict,
            message,
            [*_found(report, turn, divergences), _repeat(report)],
        )
    numbers = {
        "verdict": str(turn.verdict),
        "tokens": str(turn.tokens),
        "mismatches": str(turn.mismatches),
        "near_ties": str(turn.near_ties),
        "margin_max": f"{turn.margin_max:g}",
        "logprob_difference_max": f"{turn.logprob_difference_max:g}",
        "logprob_difference_mean": f"{turn.logprob_difference_mean:g}",
    }
    output = [f"[[PROPERTY|{name}={value}]]" for name, value in numbers.items()]
    if turn.verdict.passes:
        output += map(in_short, divergences[:_OTHERS_MAX])
    ElementTree.SubElement(case, "system-out").text = "\n".join(output)
    return case


def _found(report: Report, turn: TurnVerdict, divergences: Sequence[Divergence]) -> Iterator[str]:
    """Yield lines about the faults of a turn, its first divergence in full."""
    if turn.generator_matches is False:
        yield "the seed does not lead to the recorded end state"
    if turn.stop_matches is False:
        yield "its settings do not stop it at its last token, for its stop reason"
    if divergences:
        yield from in_full(report, divergences[0])
        yield from (f"then {in_short(each)}" for each in divergences[1 : _OTHERS_MAX + 1])
        if len(divergences) > _OTHERS_MAX + 1:
            yield f"… {len(divergences) - _OTHERS_MAX - 1:,} not shown; --json lists all"


def _fail(
    case: ElementTree.Element, element: str, kind: str, message: str, lines: Sequence[str]
) -> None:
    found = ElementTree.SubElement(case, element, type=kind, message=visible(message or kind))
    found.text = "\n".join(visible(line) for line in lines)


def _case(report: Report, name: str, duration_us: int) -> ElementTree.Element:
    # Servers split the class name at its last dot into package and class.
    name_of_run = visible(report.name or report.run_id).replace(".", "_")
    return ElementTree.Element(
        "testcase",
        classname=f"{report.replay}.{name_of_run}",
        name=name,
        time=_seconds(duration_us),
    )


def _repeat(report: Report) -> str:
    return f"repeat: {report.repro}"


def _seconds(microseconds: float) -> str:
    return f"{microseconds / 1_000_000:.3f}"
