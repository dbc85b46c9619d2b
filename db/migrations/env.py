"""Alembic's entry point: it runs the migrations on the connection that `db.upkeep.migrate` passes."""

from alembic import context

from db.tables import Table

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Table.metadata,
    # SQLite changes tables by copying them.
    render_as_batch=True,
    # The caller's transaction is the only one: a migration is whole or has not been.
    transactional_ddl=False,
)
context.run_migrations()
