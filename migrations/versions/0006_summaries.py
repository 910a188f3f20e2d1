"""What strangers send beyond the rows that they have of their own, summed by minute, address prefix and reason.

A minute's strangers of one kind may be in several events; the view adds them up.
"""

from alembic import op

revision = "0006"
down_revision = "0005"

KIND = "run_id, minute, prefix, reason, purpose, header, outcome"
NUMBERS = ("connections", "messages", "message_bytes", "answers", "failed_answers", "bytes_in", "bytes_out")
SUMS = ", ".join(f"SUM({name}) AS {name}" for name in NUMBERS)

STATEMENTS = (
    """
    CREATE TABLE summaries (
        event_seq INTEGER NOT NULL PRIMARY KEY, run_id TEXT NOT NULL REFERENCES runs, minute TEXT NOT NULL,
        prefix TEXT NOT NULL, reason TEXT NOT NULL, purpose TEXT NOT NULL, header TEXT NOT NULL, outcome TEXT,
        connections INTEGER NOT NULL, messages INTEGER NOT NULL, message_bytes INTEGER NOT NULL,
        answers INTEGER NOT NULL, failed_answers INTEGER NOT NULL, bytes_in INTEGER NOT NULL,
        bytes_out INTEGER NOT NULL
    ) STRICT
    """,
    "CREATE INDEX summaries_by_minute ON summaries (run_id, minute)",
)

VIEWS = {"v1_summaries": f"SELECT {KIND}, {SUMS} FROM summaries GROUP BY {KIND}"}


def upgrade() -> None:
    """From 0005."""
    for statement in STATEMENTS:
        op.execute(statement)
    for name, query in VIEWS.items():
        op.execute(f"CREATE VIEW {name} AS {query}")


def downgrade() -> None:
    """To 0005."""
    op.execute("DROP TABLE summaries")
