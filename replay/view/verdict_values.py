"""Reports of replays as a document has them. A report may be a stranger's, of any shape."""

from collections.abc import Mapping, Sequence
from typing import Any

from tokentape.recorder.escapes import visible
from tokentape.replay.results.verdict import Verdict
from tokentape.replay.view.json_values import json_value
from tokentape.store.attachments import StoredVerdict
from tokentape.store.signing.signatures import REPLAY as SIGNATURE

DIVERGENCES_MAX = 200
_LISTED_MAX = 1_000

Rows = Mapping[tuple[int, int], int]
"""The row of a token by its turn and step."""


def verdict_values(
    stored: Sequence[StoredVerdict],
    further: Sequence[tuple[str, Mapping[str, Any]]],
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
            found.append({"label": label, "at_us": at_us} | values)
    return found, problems


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
