"""What alembic runs. The connection, its transaction and its locks are ``flserver.store.schema``'s.

A way down leads through tables that views stand on: they go first, and those of the revision that is left come last.
"""

from alembic import context

connection = context.config.attributes["connection"]
down_to = context.config.attributes.get("down_to")  # a revision; None: this is a way up
context.configure(connection=connection, transactional_ddl=True)
with context.begin_transaction():
    if down_to is not None:
        for (view,) in connection.exec_driver_sql("SELECT name FROM sqlite_master WHERE type = 'view'").all():
            connection.exec_driver_sql(f"DROP VIEW {view}")
    context.run_migrations()
    if down_to is not None:
        views: dict[str, str] = {}
        for script in reversed(list(context.script.iterate_revisions(down_to, "base"))):
            views |= script.module.VIEWS
        for view, query in views.items():
            connection.exec_driver_sql(f"CREATE VIEW {view} AS {query}")
