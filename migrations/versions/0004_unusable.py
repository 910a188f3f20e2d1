"""An upload that cannot be used is an update too: one whose tensors could not be read has no digest.

SQLite cannot take NOT NULL off a column. So the table is made anew, and the one that refers to it, with their views and
indexes around them.
"""

from alembic import op

revision = "0004"
down_revision = "0003"

UPDATES = """
    run_id, update_id, message_id, connection_id, client_id, answers_round, answers_attempt, arrived_round, decision,
    reason, update_digest, data_size, weight, received_at, wait_seconds, upload_seconds, update_norm, identity"""
METRICS = "run_id, round, client_id, name, measured_on, source, value, update_id"

VIEWS = {
    "v1_updates": f"SELECT {UPDATES} FROM updates",
    "v1_client_metrics": "SELECT run_id, round, client_id, name, value, measured_on, source FROM client_metrics",
}

STATEMENTS = (
    "DROP VIEW v1_updates",
    "DROP VIEW v1_client_metrics",
    "ALTER TABLE client_metrics RENAME TO client_metrics_before",
    "ALTER TABLE updates RENAME TO updates_before",
    """
    CREATE TABLE updates (
        update_id INTEGER NOT NULL PRIMARY KEY, run_id TEXT NOT NULL, message_id INTEGER NOT NULL,
        connection_id INTEGER NOT NULL REFERENCES connections, client_id TEXT NOT NULL, answers_round INTEGER,
        answers_attempt INTEGER, arrived_round INTEGER, decision TEXT, reason TEXT, update_digest TEXT,
        data_size INTEGER NOT NULL, weight REAL, received_at TEXT NOT NULL, wait_seconds REAL, upload_seconds REAL,
        update_norm REAL, identity TEXT NOT NULL DEFAULT 'claimed'
    ) STRICT
    """,
    """
    CREATE TABLE client_metrics (
        run_id TEXT NOT NULL, round INTEGER NOT NULL, client_id TEXT NOT NULL, name TEXT NOT NULL,
        measured_on TEXT NOT NULL, source TEXT NOT NULL, value REAL, update_id INTEGER NOT NULL REFERENCES updates,
        PRIMARY KEY (run_id, round, client_id, name, measured_on, source)
    ) STRICT
    """,
    f"INSERT INTO updates ({UPDATES}) SELECT {UPDATES} FROM updates_before",
    f"INSERT INTO client_metrics ({METRICS}) SELECT {METRICS} FROM client_metrics_before",
    "DROP TABLE client_metrics_before",
    "DROP TABLE updates_before",
    "CREATE INDEX updates_by_attempt ON updates (run_id, answers_round, answers_attempt)",
    "CREATE INDEX updates_by_message ON updates (message_id)",
    *(f"CREATE VIEW {name} AS {query}" for name, query in VIEWS.items()),
)


def upgrade() -> None:
    """From 0003."""
    for statement in STATEMENTS:
        op.execute(statement)


def downgrade() -> None:
    """To 0003. Where an update has no digest the column may stay without: an older version writes one always, and reads
    what it finds."""
    op.execute("PRAGMA writable_schema = ON")
    op.execute(
        "UPDATE sqlite_master SET sql = replace(sql, 'update_digest TEXT', 'update_digest TEXT NOT NULL')"
        " WHERE type = 'table' AND name = 'updates'"
        " AND NOT EXISTS (SELECT 1 FROM updates WHERE update_digest IS NULL)"
    )
    op.execute("PRAGMA writable_schema = RESET")
