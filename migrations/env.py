"""Alembic's entry point: run the migrations on the connection that the store passes in."""

from alembic import context
from sqlalchemy import Connection


def run(connection: Connection) -> None:
    version_table = context.config.attributes["version_table"]
    context.configure(connection=connection, render_as_batch=True, version_table=version_table)
    with context.begin_transaction():
        context.run_migrations()


run(context.config.attributes["connection"])
