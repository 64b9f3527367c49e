"""The bodies of events of many runs at once, without decoding the other events."""

import json
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.compute as pc

from tokentape.store.source import Selection

_RUNS_AT_ONCE = 500


class BodySource(Protocol):
    """The part of a `Source` that bodies are read from."""

    def events_table(self, selection: Selection) -> pa.Table: ...


def decoded_bodies(
    source: BodySource, run_ids: Sequence[str], kinds: tuple[str, ...], piece: str = ""
) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield run, kind and fields of the events of some kinds whose JSON contains a piece of text.

    `piece` is of ASCII letters and digits, and its case does not matter. Damaged bodies are left
    out: `check` reports them.
    """
    for first in range(0, len(run_ids), _RUNS_AT_ONCE):
        chosen = tuple(run_ids[first : first + _RUNS_AT_ONCE])
        table = source.events_table(
            Selection(run_ids=chosen, kinds=kinds, columns=("kind", "body"))
        )
        if piece:
            table = table.filter(pc.match_substring(table["body"], piece, ignore_case=True))
        columns = (table[name].to_pylist() for name in ("run_id", "kind", "body"))
        for run_id, kind, body in zip(*columns, strict=True):
            fields = _fields(body)
            if fields is not None:
                yield run_id, kind, fields


def _fields(body: object) -> dict[str, Any] | None:
    try:
        fields = json.loads(body) if isinstance(body, str) else None
    except (RecursionError, ValueError):
        return None
    return fields if isinstance(fields, dict) else None
