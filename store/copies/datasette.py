"""Metadata for Datasette, which publishes a SQLite store as pages and JSON."""

import json
import re
from pathlib import Path
from typing import Any

import pyarrow as pa

from tokentape.recorder.atomic_write import atomic_write
from tokentape.recorder.paths import expand_path
from tokentape.recorder.regular_file import check_not_special
from tokentape.store.copies.datasette_queries import QUERIES
from tokentape.store.errors import StoreError
from tokentape.store.frames import columns
from tokentape.store.live.database import DatabaseStore
from tokentape.store.live.tables import metadata as live_tables
from tokentape.store.source import Source

_VIEWS: dict[str, tuple[str, pa.Schema]] = {
    "runs_df": ("A row for each run.", columns.RUNS_DF),
    "turns_df": ("A row for each turn, or for each round of one.", columns.TURNS_DF),
    "messages_df": ("A row for each message, replies included.", columns.MESSAGES_DF),
    "tokens_df": ("A row for each sampled token.", columns.TOKENS_DF),
    "top_logprobs_df": (
        "A row for each token of the top k of each step.",
        columns.TOP_LOGPROBS_DF,
    ),
    "cache_df": ("A row for each cache decision, with its prefill.", columns.CACHE_DF),
    "tools_df": ("A row for each tool result.", columns.TOOLS_DF),
    "verdicts_df": ("A row for each stored verdict of a replay.", columns.VERDICTS_DF),
    "events_df": ("A row for each event that is not a token.", columns.EVENTS_DF),
    "interventions_df": (
        "A row for each time an intervention was requested, withdrawn, applied or removed.",
        columns.INTERVENTIONS_DF,
    ),
    "activations_df": (
        "The statistics of observed layers, by ranges of positions.",
        columns.ACTIVATIONS_DF,
    ),
}
_HIDDEN = ("tokentape_version", "sqlite_sequence")
_UNITS = {"_us": "µs", "_bytes": "byte"}
_NATS = ("logprob", "logprob_processed", "entropy", "logprob_difference_max")


def export_datasette(store: Source, path: Path | str) -> Path:
    """Write a metadata file for Datasette that describes a SQLite store, and return its path.

    It describes the views with the columns of the frames, and their units; it has queries for the
    usual questions, and hides the tables in which the store keeps events. The name ends with
    `.json` or, as `.yaml` and `.yml`, has the same content. An earlier export at that path is
    replaced. Raise StoreError for any other store or file, and if the file cannot be written.

    Example:
        >>> import json
        >>> import tokentape as tt
        >>> path = tt.export_datasette(store, tmp_path / "metadata.json")
        >>> list(json.loads(path.read_text())["databases"])
        ['runs']
    """
    path = expand_path(path)
    if path.suffix not in (".json", ".yaml", ".yml"):
        raise StoreError(f"{path}: the name of a metadata file ends with .json, .yaml or .yml")
    described = datasette_metadata(store)
    try:
        check_not_special(path)
        _check_replaceable(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path, durable=True) as tmp_path:
            # JSON is YAML, too.
            tmp_path.write_text(json.dumps(described, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise StoreError(f"cannot write {path}: {error}") from None
    return path


def datasette_metadata(store: Source) -> dict[str, Any]:
    """Return the metadata of a SQLite store. Raise StoreError for any other store."""
    file = store.file if isinstance(store, DatabaseStore) else None
    if file is None:
        raise StoreError(f"Datasette reads SQLite files, and {store.where} is none")
    tables: dict[str, Any] = {
        name: _described(text, schema) for name, (text, schema) in _VIEWS.items()
    }
    for name in (*sorted(live_tables.tables), *_HIDDEN):
        tables[name] = {"hidden": True}
    return {
        "title": "Runs recorded by tokentape",
        "source": "tokentape",
        "databases": {
            file.stem: {
                "description": "Begin with runs_df; the views join by run_id, and by turn and "
                "step. Times are in UTC, log-probabilities in nats.",
                "tables": tables,
                "queries": QUERIES,
            }
        },
    }


def _described(text: str, schema: pa.Schema) -> dict[str, Any]:
    meanings = {
        "arguments" if field.name == "call" else field.name: _plain(field) for field in schema
    }
    units = {name: unit for name in meanings for end, unit in _UNITS.items() if name.endswith(end)}
    nats = [name for name in meanings if name in _NATS]
    meanings |= {name: _with_unit(meanings[name]) for name in nats}
    described: dict[str, Any] = {"description": text, "columns": meanings}
    return described | ({"units": units} if units else {})


def _with_unit(meaning: str) -> str:
    return meaning if "nats" in meaning else f"{meaning}, in nats"


def _plain(field: pa.Field) -> str:
    """Return what a column means, without the marks of Markdown."""
    if field.name == "call":
        return "the arguments of the call, in JSON"
    return re.sub("`", "", (field.metadata or {}).get(columns.MEANING, b"").decode())


def _check_replaceable(path: Path) -> None:
    if not path.exists():
        return
    try:
        if json.loads(path.read_bytes()).get("source") == "tokentape":
            return
    except (AttributeError, RecursionError, ValueError):
        pass
    raise StoreError(
        f"{path} exists and is not an export of metadata: move it away, or choose another name"
    )
