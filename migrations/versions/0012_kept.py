"""Where an accepted update's tensors lie, if they were kept. Older ones were not.

Columns are added at the end, of the table and of the view: what reads a view by name or by place goes on.
"""

from alembic import op

revision = "0012"
down_revision = "0011"

VIEWS = {
    "v1_updates": """
        SELECT run_id, update_id, message_id, connection_id, client_id, answers_round, answers_attempt, arrived_round,
            decision, reason, update_digest, data_size, weight, received_at, wait_seconds, upload_seconds, update_norm,
            identity, parameters_norm, buffers_norm, counted_size, kept
        FROM updates""",
}


def upgrade() -> None:
    """From 0011."""
    op.execute("ALTER TABLE updates ADD COLUMN kept TEXT")
    for name, query in VIEWS.items():
        op.execute(f"DROP VIEW {name}")
        op.execute(f"CREATE VIEW {name} AS {query}")


def downgrade() -> None:
    """To 0011."""
    op.execute("ALTER TABLE updates DROP COLUMN kept")
