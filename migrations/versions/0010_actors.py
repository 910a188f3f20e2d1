"""Who did something to a run or the database, and why. Older acts have neither on record.

Columns are added at the end, of the table and of the view: what reads the view by name or by place goes on.
"""

from alembic import op

revision = "0010"
down_revision = "0009"

COLUMNS = (
    "ALTER TABLE operator_events ADD COLUMN actor TEXT",
    "ALTER TABLE operator_events ADD COLUMN reason TEXT",
)

VIEWS = {
    "v1_operator_events": "SELECT run_id, process_id, at, kind, detail, actor, reason FROM operator_events",
}


def upgrade() -> None:
    """From 0009."""
    for statement in COLUMNS:
        op.execute(statement)
    for name, query in VIEWS.items():
        op.execute(f"DROP VIEW {name}")
        op.execute(f"CREATE VIEW {name} AS {query}")


def downgrade() -> None:
    """To 0009."""
    op.execute("ALTER TABLE operator_events DROP COLUMN actor")
    op.execute("ALTER TABLE operator_events DROP COLUMN reason")
