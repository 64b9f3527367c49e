"""The table in which a database says which schema of the store it has.

It has a name of our own, because other applications that use Alembic may be in the same database.
Version 0.1.0 used Alembic's name; such a store is read as it is until it is upgraded.
"""

from collections.abc import Collection

from sqlalchemy import (
    Column,
    Connection,
    MetaData,
    PrimaryKeyConstraint,
    String,
    Table,
    inspect,
    text,
)

VERSION_TABLE = "tokentape_version"
_ALEMBIC_TABLE = "alembic_version"
_OURS = frozenset({"runs", "events", "tokens", "blobs", "tombstones"})
"""Tables of every schema. Together with Alembic's they are a store of version 0.1.0."""


def tables_of(connection: Connection) -> set[str]:
    """Return the names of the tables in a database."""
    # A new inspector each time: one caches the names that it has seen.
    return set(inspect(connection).get_table_names())


def is_shared(connection: Connection) -> bool:
    """Return whether our tables may join those of another application.

    The database of a server is for any number of applications. A SQLite file belongs to one,
    unless its tables are made by Alembic: then a program is developed with it.
    """
    return connection.dialect.name != "sqlite" or _ALEMBIC_TABLE in tables_of(connection)


def is_store(tables: Collection[str]) -> bool:
    """Return whether the tables of a database include those of a store."""
    return VERSION_TABLE in tables or (_ALEMBIC_TABLE in tables and _OURS.issubset(tables))


def has_own_version(tables: Collection[str]) -> bool:
    """Return whether the store has its own version table, unlike one of version 0.1.0."""
    return VERSION_TABLE in tables


def name_of_another(connection: Connection, declared: Collection[str]) -> str:
    """Return a name that our tables need and another application has taken, or "".

    SQLite does not distinguish upper from lower case.
    """
    names = tables_of(connection) | set(inspect(connection).get_view_names())
    folds = connection.dialect.name == "sqlite"
    taken = {(name.lower() if folds else name): name for name in names}
    return next((taken[name] for name in sorted(declared) if name in taken), "")


def version_table_of(tables: Collection[str]) -> str:
    """Return the name of the table that holds the version of a store."""
    return VERSION_TABLE if has_own_version(tables) else _ALEMBIC_TABLE


def version_of(connection: Connection, known: Collection[str]) -> str:
    """Return the revision of a store.

    `known` are our revisions: in Alembic's table, other rows belong to another application.
    """
    table = version_table_of(tables_of(connection))
    query = text(f"SELECT substr(version_num, 1, 32) FROM {table} LIMIT 1000")
    found = connection.execute(query).scalars().all()
    ours = [each for each in found if each in known]
    return str((ours or found or [None])[0])


def move_to_own_table(connection: Connection, revision: str, declared: Collection[str]) -> None:
    """Move the version of a store of 0.1.0 from Alembic's table to our own.

    `declared` are the names of our tables. Alembic's table is removed if it is empty then and no
    other application has tables in the database. If one has, and the only row there may be its
    own revision of the same name, the row stays.
    """
    tables = tables_of(connection)
    if has_own_version(tables):
        return
    table = Table(
        VERSION_TABLE,
        MetaData(),
        Column("version_num", String(32), nullable=False),
        PrimaryKeyConstraint("version_num", name=f"{VERSION_TABLE}_pkc"),
    )
    table.create(connection)
    connection.execute(table.insert().values(version_num=revision))
    rows = connection.execute(text(f"SELECT count(*) FROM {_ALEMBIC_TABLE}")).scalar_one()
    others = tables - set(declared) - {_ALEMBIC_TABLE}
    if rows > 1:
        connection.execute(
            text(f"DELETE FROM {_ALEMBIC_TABLE} WHERE version_num = :revision"),
            {"revision": revision},
        )
    elif not others:
        connection.execute(text(f"DROP TABLE {_ALEMBIC_TABLE}"))
