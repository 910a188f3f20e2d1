"""With how many samples an update counts, and a number that a client reported and REAL cannot hold.

Columns are added at the end, of the tables and of the views: what reads a view by name or by place goes on.
"""

from alembic import op

revision = "0007"
down_revision = "0006"

STATEMENTS = (
    "ALTER TABLE updates ADD COLUMN counted_size INTEGER",
    "ALTER TABLE client_rounds ADD COLUMN counted_size INTEGER",
    # Before there were caps, every update counted with all its samples.
    "UPDATE updates SET counted_size = data_size",
    "UPDATE client_rounds SET counted_size = data_size",
    "ALTER TABLE client_metrics ADD COLUMN note TEXT",
)

VIEWS = {
    "v1_updates": """
        SELECT run_id, update_id, message_id, connection_id, client_id, answers_round, answers_attempt, arrived_round,
            decision, reason, update_digest, data_size, weight, received_at, wait_seconds, upload_seconds, update_norm,
            identity, parameters_norm, buffers_norm, counted_size
        FROM updates""",
    "v1_client_rounds": """
        SELECT run_id, round, attempt, client_id, participation, decision, reason, data_size, weight, sent_at, seconds,
            bytes_in, bytes_out, update_norm, counted_size
        FROM client_rounds""",
    "v1_client_metrics": """
        SELECT run_id, round, client_id, name, value, measured_on, source, note FROM client_metrics""",
}


def upgrade() -> None:
    """From 0006."""
    for statement in STATEMENTS:
        op.execute(statement)
    for name, query in VIEWS.items():
        op.execute(f"DROP VIEW {name}")
        op.execute(f"CREATE VIEW {name} AS {query}")


def downgrade() -> None:
    """To 0006."""
    op.execute("ALTER TABLE updates DROP COLUMN counted_size")
    op.execute("ALTER TABLE client_rounds DROP COLUMN counted_size")
    op.execute("ALTER TABLE client_metrics DROP COLUMN note")
