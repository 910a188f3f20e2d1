"""A client's row of an attempt is found by its whole key, also by the index that begins with the client.

PostgreSQL takes either index where it does not know yet how the values are spread, which is so until its statistics are
made. By run and client alone each update of such a row went through all of the client's rounds.
"""

from alembic import op

revision = "0016"
down_revision = "0015"

VIEWS: dict[str, str] = {}


def upgrade() -> None:
    """From 0015."""
    op.execute("DROP INDEX client_rounds_by_client")
    op.execute("CREATE INDEX client_rounds_by_client ON client_rounds (run_id, client_id, round, attempt)")


def downgrade() -> None:
    """To 0015."""
    op.execute("DROP INDEX client_rounds_by_client")
    op.execute("CREATE INDEX client_rounds_by_client ON client_rounds (run_id, client_id)")
