"""The commands of `db`: show and upgrade the schema of a store."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import tokentape as tt
from tokentape import output
from tokentape.commands.options import JsonOption, StoreOption
from tokentape.screen import out
from tokentape.store.default_store import DEFAULT_URL

if TYPE_CHECKING:
    from sqlalchemy.engine import URL


def current(store: StoreOption = DEFAULT_URL, as_json: JsonOption = False) -> None:
    """Print the schema revision of a store, and the newest one if that differs."""
    from tokentape.store import current_schema
    from tokentape.store.live.schema import head

    revision, newest = current_schema(_database_url(store)), head()
    if as_json:
        output.print_json({"current": revision, "head": newest})
    else:
        note = "" if revision == newest else f", to be upgraded to {newest}"
        out.line(f"{revision}{note}")


def list_history(store: StoreOption = DEFAULT_URL, as_json: JsonOption = False) -> None:
    """List every schema revision, oldest first; `*` marks the one of the store."""
    from tokentape.store import current_schema
    from tokentape.store.live.schema import history

    revisions = history(current_schema(_database_url(store)))
    if as_json:
        output.print_json([asdict(each) for each in revisions])
    else:
        for each in revisions:
            star = "*" if each.is_current else " "
            out.line(f"{star} {each.revision}  {each.summary}")


def upgrade(
    store: StoreOption = DEFAULT_URL,
    backup: Annotated[bool, typer.Option(help="Copy a SQLite file before the upgrade.")] = True,
    as_json: JsonOption = False,
) -> None:
    """Upgrade a store to the newest schema, in one transaction."""
    from tokentape.store import upgrade_store

    done = upgrade_store(_database_url(store), backup=backup)
    if as_json:
        output.print_json(asdict(done) | {"backup": done.backup and str(done.backup)})
    elif done.before == done.after:
        out.line(f"{done.after} is the newest already")
    else:
        backup_note = f"; backup: {done.backup}" if done.backup else ""
        out.line(f"{done.before} -> {done.after}{backup_note}")


def _database_url(store: str) -> "URL":
    from tokentape.store import database_url

    url = database_url(store)
    if url.get_backend_name() == "sqlite" and not Path(str(url.database)).is_file():
        raise tt.StoreError(f"there is no store at {url.database}")
    return url
