"""What was sent and what was measured, as it was: a registration's fields, a number that REAL cannot hold.

Columns are added at the end, of the tables and of the views: what reads a view by name or by place goes on.
"""

from alembic import op

revision = "0003"
down_revision = "0002"

COLUMNS = (
    "ALTER TABLE clients ADD COLUMN metadata TEXT",
    "ALTER TABLE round_metrics ADD COLUMN note TEXT",
)

VIEWS = {
    "v1_clients": """
        SELECT run_id, client_id, registration, connection_id, identity, data_size, info, registered_at, left_at,
            left_reason, label, metadata
        FROM clients""",
    "v1_round_metrics": "SELECT run_id, round, name, value, source, note FROM round_metrics",
}


def upgrade() -> None:
    """From 0002."""
    for statement in COLUMNS:
        op.execute(statement)
    for name, query in VIEWS.items():
        op.execute(f"DROP VIEW {name}")
        op.execute(f"CREATE VIEW {name} AS {query}")


def downgrade() -> None:
    """To 0002."""
    op.execute("ALTER TABLE clients DROP COLUMN metadata")
    op.execute("ALTER TABLE round_metrics DROP COLUMN note")
