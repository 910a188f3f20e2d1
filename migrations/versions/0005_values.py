"""How far an update is from the model that was sent, by its parameters and by its buffers.

Columns are added at the end, of the tables and of the views: what reads a view by name or by place goes on.
"""

from alembic import op

revision = "0005"
down_revision = "0004"

COLUMNS = (
    "ALTER TABLE updates ADD COLUMN parameters_norm REAL",
    "ALTER TABLE updates ADD COLUMN buffers_norm REAL",
)

VIEWS = {
    "v1_updates": """
        SELECT run_id, update_id, message_id, connection_id, client_id, answers_round, answers_attempt, arrived_round,
            decision, reason, update_digest, data_size, weight, received_at, wait_seconds, upload_seconds, update_norm,
            identity, parameters_norm, buffers_norm
        FROM updates""",
}


def upgrade() -> None:
    """From 0004."""
    for statement in COLUMNS:
        op.execute(statement)
    for name, query in VIEWS.items():
        op.execute(f"DROP VIEW {name}")
        op.execute(f"CREATE VIEW {name} AS {query}")


def downgrade() -> None:
    """To 0004."""
    op.execute("ALTER TABLE updates DROP COLUMN parameters_norm")
    op.execute("ALTER TABLE updates DROP COLUMN buffers_norm")
