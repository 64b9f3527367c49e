"""The names of the files of sealed runs.

`<table>/schema=1/run_id=<id>/part-00000.parquet`, with one folder for each table. A run is sealed
once it has its one file of `runs`, which lists the others; see `tokentape.store.sealed.run_file`.
"""

import re
from collections.abc import Iterable
from urllib.parse import quote, unquote

SCHEMA_VERSION = 1
RUN_TABLES = ("events", "tokens", "blobs")
"""The tables that grow with a run: part N of each covers the same stretch of it."""
TABLES = (*RUN_TABLES, "verdicts", "floors", "run_labels")
"""All tables but `runs`."""

_SCHEMA_FOLDER = re.compile(r"schema=(\d+)")
_PART = re.compile(r"/part-(\d{5,9})\.parquet$", re.ASCII)
_RUN_FILE = re.compile(rf"runs/schema={SCHEMA_VERSION}/run_id=([^/]*)/part-00000\.parquet")


def part_name(table: str, run_id: str, number: int = 0) -> str:
    """Return a file's path inside a folder or a tape, with the id quoted as in hive folders."""
    folder = f"{table}/schema={SCHEMA_VERSION}/run_id={quote(run_id, safe='')}"
    return f"{folder}/part-{number:05}.parquet"


def run_id_of(name: str) -> str | None:
    """Return the run of a file of `runs` by its path; None for any other file."""
    match = _RUN_FILE.fullmatch(name)
    return unquote(match.group(1)) if match else None


def is_part_of(run_id: str, name: str) -> bool:
    """Return whether a path is that of a part of a run, in a table other than `runs`."""
    table, found = name.partition("/")[0], _PART.search(name)
    return (
        table in TABLES
        and found is not None
        and name == part_name(table, run_id, int(found.group(1)))
    )


def folder_of_run(name: str) -> str:
    """Return the folder name that all files of one run share."""
    return name.rsplit("/", 2)[-2]


def newest_schema(names: Iterable[str]) -> int:
    """Return the highest schema version among names of folders; 0 if none has one."""
    versions = (_SCHEMA_FOLDER.fullmatch(name) for name in names)
    return max((int(match.group(1)) for match in versions if match), default=0)
