"""Keeps recordings: a live SQLite database, sealed Parquet folders, and frames from both."""

import os
from pathlib import Path

from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from store.database import DatabaseStore
from store.errors import NewerStoreError, NoSuchRunError, StoreError
from store.frames import (
    cache_df,
    candidates_df,
    events_df,
    runs_df,
    tokens_df,
    tools_df,
    turns_df,
)
from store.parquet import ParquetStore, export_parquet

DEFAULT_URL = "sqlite:///tokentape.db"


def open_store(
    where: str | os.PathLike[str] = DEFAULT_URL, *, must_exist: bool = False, upgrade: bool = False
) -> DatabaseStore | ParquetStore:
    """Open a live store, or a folder of sealed runs to read.

    A live store is a URL such as `sqlite:///runs.db` or `postgresql+psycopg://user@host/database`.
    A plain path is the folder or the SQLite file at that path. A live store is created where
    there is none, unless it `must_exist`. One with an older schema is brought to today's where
    `upgrade` asks for it, after a backup. Raises StoreError for anything that is not a store, which
    is left as it was.
    """
    text = os.fspath(where)
    if "://" not in text:
        if Path(text).is_dir():
            return ParquetStore(Path(text))
        text = f"sqlite:///{text}"
    try:
        url = make_url(text)
    except ArgumentError:
        raise StoreError(f"{text!r} is not a database URL, nor a path") from None
    is_sqlite = url.get_backend_name() == "sqlite"
    if must_exist and is_sqlite and not Path(url.database or "").is_file():
        raise StoreError(f"there is no store at {url.database}")
    return DatabaseStore(url, upgrade=upgrade)


__all__ = (
    "DEFAULT_URL",
    "DatabaseStore",
    "NewerStoreError",
    "NoSuchRunError",
    "ParquetStore",
    "StoreError",
    "cache_df",
    "candidates_df",
    "events_df",
    "export_parquet",
    "open_store",
    "runs_df",
    "tokens_df",
    "tools_df",
    "turns_df",
)
