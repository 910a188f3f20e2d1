"""Text from outside may be NULL, once it was purged. And the numbers that REAL cannot hold, of the rounds from before
there was a column for them, are as the events have them: every column follows from those.

SQLite cannot take NOT NULL off a column, but takes a table's text without it, where that is all that changes:
https://www.sqlite.org/lang_altertable.html#making_other_kinds_of_table_schema_changes
"""

from alembic import op

revision = "0013"
down_revision = "0012"

# A payload that is no JSON any more was tampered with: the chain says so.
EVENTS = "(SELECT run_id, type, CASE WHEN json_valid(payload) THEN payload ELSE '{}' END AS payload FROM events)"

VIEWS: dict[str, str] = {}

STATEMENTS = (
    f"""
    UPDATE round_metrics SET note = told.value
    FROM (
        SELECT run_id, metric.value ->> 'round' AS round, metric.value ->> 'name' AS name,
            metric.value ->> 'source' AS source, metric.value ->> 'value' AS value
        FROM {EVENTS} AS recorded, json_each(recorded.payload, '$.metrics') AS metric
        WHERE recorded.type = 'RoundCommitted' AND json_type(metric.value, '$.value') = 'text'
    ) AS told
    WHERE round_metrics.value IS NULL AND round_metrics.note IS NULL AND round_metrics.run_id = told.run_id
        AND round_metrics.round = told.round AND round_metrics.name = told.name
        AND round_metrics.source = told.source
    """,
    f"""
    UPDATE client_metrics SET note = told.value
    FROM (
        SELECT recorded.payload ->> 'update_id' AS update_id, metric.value ->> 'name' AS name,
            metric.value ->> 'measured_on' AS measured_on, metric.value ->> 'value' AS value
        FROM {EVENTS} AS recorded, json_each(recorded.payload, '$.metrics') AS metric
        WHERE recorded.type = 'UpdateReceived' AND json_type(metric.value, '$.value') = 'text'
    ) AS told
    WHERE client_metrics.value IS NULL AND client_metrics.note IS NULL AND client_metrics.update_id = told.update_id
        AND client_metrics.name = told.name AND client_metrics.measured_on = told.measured_on
    """,
)


OPTIONAL = {
    "connections": ("peer_host TEXT", "peer_port INTEGER"),
    "clients": ("info TEXT",),
    "summaries": ("prefix TEXT",),
}


def upgrade() -> None:
    """From 0012. On PostgreSQL no record is older."""
    if op.get_context().dialect.name == "postgresql":
        for table, columns in OPTIONAL.items():
            for column in columns:
                op.execute(f"ALTER TABLE {table} ALTER COLUMN {column.split()[0]} DROP NOT NULL")
        return
    op.execute("PRAGMA writable_schema = ON")
    for table, columns in OPTIONAL.items():
        for column in columns:
            op.execute(
                f"UPDATE sqlite_master SET sql = replace(sql, '{column} NOT NULL', '{column}')"
                f" WHERE type = 'table' AND name = '{table}'"
            )
    op.execute("PRAGMA writable_schema = RESET")
    for statement in STATEMENTS:
        op.execute(statement)


def downgrade() -> None:
    """To 0012. A column of which something was purged may stay NULL: an older version writes it always, and reads what
    it finds."""
    op.execute("PRAGMA writable_schema = ON")
    for table, columns in OPTIONAL.items():
        for column in columns:
            op.execute(
                f"UPDATE sqlite_master SET sql = replace(sql, '{column}', '{column} NOT NULL')"
                f" WHERE type = 'table' AND name = '{table}'"
                f" AND NOT EXISTS (SELECT 1 FROM {table} WHERE {column.split()[0]} IS NULL)"
            )
    op.execute("PRAGMA writable_schema = RESET")
