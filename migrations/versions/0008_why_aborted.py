"""Why an attempt was aborted, beside its status.

A column is added at the end, of the table and of the view: what reads the view by name or by place goes on.
"""

from alembic import op

revision = "0008"
down_revision = "0007"

STATEMENTS = (
    "ALTER TABLE rounds ADD COLUMN reason TEXT",
    "UPDATE rounds SET reason = (SELECT json_extract(payload, '$.reason') FROM events WHERE seq = event_seq)"
    " WHERE status = 'aborted'",
)

VIEWS = {
    "v1_rounds": """
        SELECT run_id, round, attempt, status, process_id, started_at, ended_at, deadline_at, seconds,
            broadcast_seconds, wait_seconds, aggregate_seconds, evaluate_seconds, checkpoint_seconds, clients,
            updates_accepted, data_size, base_digest, model_digest, checkpoint, checkpoint_bytes,
            checkpoint_deleted_at, loss, accuracy, event_seq, reason
        FROM rounds""",
}


def upgrade() -> None:
    """From 0007."""
    for statement in STATEMENTS:
        op.execute(statement)
    for name, query in VIEWS.items():
        op.execute(f"DROP VIEW {name}")
        op.execute(f"CREATE VIEW {name} AS {query}")


def downgrade() -> None:
    """To 0007."""
    op.execute("ALTER TABLE rounds DROP COLUMN reason")
