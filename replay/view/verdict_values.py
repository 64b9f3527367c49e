"""Reports of replays as a document has them. A report may be a stranger's, of any shape."""

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from tokentape.recorder.escapes import visible
from tokentape.replay.recorded.loaded_run import LoadedRun
from tokentape.replay.results.verdict import Verdict
from tokentape.replay.view.go_on import replay_command
from tokentape.replay.view.json_values import json_value
from tokentape.store.attachments import StoredVerdict
from tokentape.store.signing.signatures import REPLAY as SIGNATURE

DIVERGENCES_MAX = 200
_LISTED_MAX = 1_000
_REPLAYS = ("verify", "retrace", "regenerate")
_WITHOUT_INTERVENTIONS = "--without-interventions"

Rows = Mapping[tuple[int, int], int]
"""The row of a token by its turn and step."""


def verdict_values(
    stored: Sequence[StoredVerdict],
    further: Sequence[tuple[str, Mapping[str, Any]]],
    run: LoadedRun,
    rows: Rows,
) -> tuple[list[dict[str, Any]], list[str]]:
    """Return the reports, and a sentence for each that is no report of a replay."""
    found: list[dict[str, Any]] = []
    problems: list[str] = []
    named = [("", each.at_us, each.report) for each in stored if each.replay != SIGNATURE]
    for label, at_us, report in (*named, *((label, None, each) for label, each in further)):
        values = _report(report, rows)
        if values is None:
            what = f"the report of {visible(label)}" if label else "a stored verdict"
            problems.append(f"{what} is left out: it is not a report of a replay.")
        else:
            repeat = _command_of(values, run) if label else _command(values, run, rows)
            found.append({"label": label, "at_us": at_us} | values | {"repeat": repeat})
    return found, problems


def _command(values: Mapping[str, Any], run: LoadedRun, rows: Rows) -> list[str]:
    """Return the command line that repeats a replay of this recording.

    It names the turn of the first divergence, or else the replayed turns unless these are all. Of
    the report only names of replays and numbers of turns are written into it.
    """
    name = values["replay"]
    command = replay_command(run, name) if name in _REPLAYS else []
    if not command:
        return []
    diverged = [] if values["passes"] else values["divergences"][:1]
    replayed = {each["turn"] for each in diverged or values["turns"]}
    known = {turn for turn, _ in rows}
    if diverged or not replayed >= known:
        for turn in sorted(replayed & known):
            command += ["--turn", str(turn)]
    if _WITHOUT_INTERVENTIONS in _words(values["repro"]):
        command.append(_WITHOUT_INTERVENTIONS)
    return command


def _command_of(values: Mapping[str, Any], run: LoadedRun) -> list[str]:
    """Return the command line in a report of another recording.

    It is empty where the command names this recording, which it does not repeat, or no store.
    """
    words = _words(values["repro"])
    if words[:1] != ["tokentape"] or words[1:2] != [values["replay"]] or "--store" not in words:
        return []
    if values["replay"] not in _REPLAYS:
        return []
    store = words[words.index("--store") + 1 :][:1]
    return [] if words[2:3] == [run.run_id] and store == [run.recording.where] else words


def _words(line: str) -> list[str]:
    """Return the arguments of a command line; none if its quotes are not closed."""
    try:
        return shlex.split(line)
    except ValueError:
        return []


def _report(report: object, rows: Rows) -> dict[str, Any] | None:
    """Return what a report says; None for a value without a known verdict."""
    verdict = report.get("verdict") if isinstance(report, Mapping) else None
    if not isinstance(report, Mapping) or verdict not in list(Verdict):
        return None
    try:
        return _values(report, Verdict(verdict), rows)
    except RecursionError:
        return None


def _values(report: Mapping[str, Any], verdict: Verdict, rows: Rows) -> dict[str, Any]:
    divergences = _mappings(report, "divergences")
    return {
        "replay": _text(report, "replay"),
        "verdict": str(verdict),
        "passes": verdict.passes,
        "reason": _text(report, "reason"),
        "causes": [_picked(each, _CAUSE) for each in _mappings(report, "causes")[:_LISTED_MAX]],
        "turns": [_picked(each, _TURN) for each in _mappings(report, "turns")],
        "divergences": [_divergence(each, rows) for each in divergences[:DIVERGENCES_MAX]],
        "divergences_total": len(divergences),
        "floor": json_value(report["floor"]) if isinstance(report.get("floor"), Mapping) else None,
        "altered": [str(each) for each in _list(report, "altered") if isinstance(each, str)],
        "repro": _text(report, "repro"),
        "tools": [_picked(each, _TOOL) for each in _mappings(report, "tools")[:_LISTED_MAX]],
        "fingerprints": [
            _picked(each, _FINGERPRINT) for each in _mappings(report, "differences")[:_LISTED_MAX]
        ],
    }


_CAUSE = {"name": str, "sentence": str, "turn": int, "step": int}
_TURN = {
    "turn": int,
    "verdict": str,
    "tokens": int,
    "mismatches": int,
    "near_ties": int,
    "logprob_difference_max": float,
}
_TOOL = dict.fromkeys(("call_id", "tool", "field", "recorded", "replayed"), str) | {"turn": int}
_FINGERPRINT = dict.fromkeys(("field", "recorded", "replayed", "detail"), str) | {"forbids": bool}
_TOKEN = {"token_id": int, "text": str, "logprob": float, "score": float, "filtered_by": str}
_DIVERGENCE = {
    "turn": int,
    "step": int,
    "kind": str,
    "position": int,
    "margin": float,
    "boundary_gap": float,
    "logprob_difference": float,
    "text_before": str,
    "text_after": str,
}


def _divergence(values: Mapping[str, Any], rows: Rows) -> dict[str, Any]:
    picked = _picked(values, _DIVERGENCE)
    sides = {name: _picked(_mapping(values, name), _TOKEN) for name in ("recorded", "replayed")}
    tops = {
        name: [_picked(each, _TOKEN) for each in _mappings(values, name)[:_LISTED_MAX]]
        for name in ("recorded_top", "replayed_top")
    }
    row = rows.get((picked["turn"], picked["step"])) if picked["turn"] is not None else None
    return picked | {"token": row} | sides | tops


def _picked(values: Mapping[str, Any], fields: Mapping[str, type]) -> dict[str, Any]:
    """Return the named fields; None for one that is missing or of another type."""
    return {name: _of_type(values.get(name), kind) for name, kind in fields.items()}


def _of_type(value: Any, kind: type) -> Any:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    fits = is_number if kind is float else isinstance(value, kind)
    if kind is int and isinstance(value, bool):
        fits = False
    return json_value(value) if fits else None


def _text(values: Mapping[str, Any], name: str) -> str:
    value = values.get(name)
    return str(value) if isinstance(value, str) else ""


def _list(values: Mapping[str, Any], name: str) -> list[Any]:
    value = values.get(name)
    return list(value) if isinstance(value, list | tuple) else []


def _mapping(values: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = values.get(name)
    return value if isinstance(value, Mapping) else {}


def _mappings(values: Mapping[str, Any], name: str) -> list[Mapping[str, Any]]:
    return [each for each in _list(values, name) if isinstance(each, Mapping)]
