"""What alembic runs. The connection, its transaction and its locks are ``flserver.store.schema``'s.

The revisions are in SQLite's words. On PostgreSQL a column's type has another name, and what the record's SQL needs
beyond the tables stands in ``postgres.sql``.

A way down leads through tables that views stand on: they go first, and those of the revision that is left come last.
There is none on PostgreSQL.
"""

import re
from pathlib import Path
from typing import Any

from alembic import context
from sqlalchemy import event

DDL = re.compile(r"\s*(CREATE|ALTER)\s+(TABLE|VIEW)\b", re.IGNORECASE)
WORDS = {"INTEGER": "BIGINT", "REAL": "DOUBLE PRECISION", "user": '"user"'}  # PostgreSQL's have 32 bits; user is a word

connection = context.config.attributes["connection"]
down_to = context.config.attributes.get("down_to")  # a revision; None: this is a way up


def in_postgresql(_: Any, __: Any, statement: str, parameters: Any, *___: Any) -> tuple[str, Any]:
    """A statement that makes or changes a table or view, as PostgreSQL takes it."""
    if DDL.match(statement):
        statement = re.sub(r"\)\s*STRICT(,\s*WITHOUT ROWID)?\s*$", ")", statement)
        statement = re.sub(rf"\b({'|'.join(WORDS)})\b", lambda word: WORDS[word[0]], statement)
    return statement, parameters


if connection.dialect.name == "postgresql":
    connection.exec_driver_sql("SET LOCAL search_path = public, flserver, pg_catalog")
    more = Path(context.script.dir, "postgres.sql").read_text(encoding="utf-8")
    connection.execution_options(no_parameters=True).exec_driver_sql(more)
    event.listen(connection, "before_cursor_execute", in_postgresql, retval=True)
context.configure(connection=connection, transactional_ddl=True)
with context.begin_transaction():
    if down_to is not None:
        for (view,) in connection.exec_driver_sql("SELECT name FROM sqlite_master WHERE type = 'view'").all():
            connection.exec_driver_sql(f"DROP VIEW {view}")
    context.run_migrations()
    if connection.dialect.name == "postgresql":  # for who may read views alone
        connection.exec_driver_sql(
            "CREATE OR REPLACE VIEW flserver.revision AS SELECT version_num FROM alembic_version"
        )
    if down_to is not None:
        views: dict[str, str] = {}
        for script in reversed(list(context.script.iterate_revisions(down_to, "base"))):
            views |= script.module.VIEWS
        for view, query in views.items():
            connection.exec_driver_sql(f"CREATE VIEW {view} AS {query}")
