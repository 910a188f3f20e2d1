"""How much of an update is in the direction of the last round's step, and what a server process was made of: the
sources that its settings name, its libraries and its CPU. Older ones were not noted.

Columns are added at the end, of the tables and of the views: what reads a view by name or by place goes on.
"""

from alembic import op

revision = "0014"
down_revision = "0013"

COLUMNS = {
    "updates": ("update_cosine REAL",),
    "client_rounds": ("update_cosine REAL",),
    "processes": ("code TEXT", "libraries TEXT", "cpu TEXT"),
}

VIEWS = {
    "v1_updates": """
        SELECT run_id, update_id, message_id, connection_id, client_id, answers_round, answers_attempt, arrived_round,
            decision, reason, update_digest, data_size, weight, received_at, wait_seconds, upload_seconds, update_norm,
            identity, parameters_norm, buffers_norm, counted_size, kept, update_cosine
        FROM updates""",
    "v1_client_rounds": """
        SELECT run_id, round, attempt, client_id, participation, decision, reason, data_size, weight, sent_at, seconds,
            bytes_in, bytes_out, update_norm, counted_size, update_cosine
        FROM client_rounds""",
    "v1_processes": """
        SELECT process_id, run_id, host, user, pid, server_version, python_version, torch_version, overrides,
            started_at, ended_at, exit_code, resumed_from_round, code, libraries, cpu
        FROM processes""",
}


def upgrade() -> None:
    """From 0013."""
    for table, columns in COLUMNS.items():
        for column in columns:
            op.execute(f"ALTER TABLE {table} ADD COLUMN {column}")
    for name, query in VIEWS.items():
        op.execute(f"DROP VIEW {name}")
        op.execute(f"CREATE VIEW {name} AS {query}")


def downgrade() -> None:
    """To 0013."""
    for table, columns in COLUMNS.items():
        for column in columns:
            op.execute(f"ALTER TABLE {table} DROP COLUMN {column.split()[0]}")
