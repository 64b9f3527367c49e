"""The copy of a SQLite store that is made before it is upgraded."""

import sqlite3
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy.engine import URL

from tokentape.recorder.atomic_write import atomic_write
from tokentape.store.errors import StoreError
from tokentape.store.location import is_in_memory, shown


def back_up(url: URL, revision: str) -> Path | None:
    """Copy a SQLite file to `FILE.REVISION.TIME.backup` in its folder, and return that path.

    Return None for a store in memory. Raise StoreError for a PostgreSQL database, for a damaged
    file, and where the copy cannot be written.
    """
    if url.get_backend_name() != "sqlite":
        raise StoreError(
            f"{shown(url)} cannot be copied from here: make a backup with pg_dump, "
            "then upgrade with --no-backup"
        )
    if is_in_memory(url):
        return None
    path = Path(str(url.database))
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S")
    copy = path.with_name(f"{path.name}.{revision}.{stamp}.backup")
    try:
        with atomic_write(copy, durable=True) as tmp_path:
            verdict = copy_database(path, tmp_path)
            if verdict != "ok":
                raise StoreError(
                    f"{path} is damaged ({verdict}): it was neither backed up nor upgraded"
                )
    except (OSError, sqlite3.Error) as error:
        raise StoreError(f"cannot make the backup {copy}: {error}; nothing was changed") from None
    return copy


def copy_database(path: Path, copy: Path) -> str:
    """Copy a SQLite database and return SQLite's verdict on the copy, `ok` if it is sound."""
    with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(copy)) as target:
        source.backup(target)
        # Those of another application's tables might compute for ever.
        target.execute("PRAGMA ignore_check_constraints=ON")
        (verdict,) = target.execute("PRAGMA quick_check(1)").fetchone()
    return str(verdict)
