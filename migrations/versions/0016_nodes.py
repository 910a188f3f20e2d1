"""Which ingest node accepted a connection, where there were nodes. Older records had none.

Columns are added at the end, of the table and of the view: what reads a view by name or by place goes on.
"""

from alembic import op

revision = "0016"
down_revision = "0015"

VIEWS = {
    "v1_connections": """
        SELECT run_id, connection_id, peer_host, peer_port, client_id, purpose, transport, certificate_subject,
            certificate_fingerprint, opened_at, closed_at, close_reason, bytes_in, bytes_out, proxy_host, node
        FROM connections""",
}


def upgrade() -> None:
    """From 0015."""
    op.execute("ALTER TABLE connections ADD COLUMN node TEXT")
    for name, query in VIEWS.items():
        op.execute(f"DROP VIEW {name}")
        op.execute(f"CREATE VIEW {name} AS {query}")


def downgrade() -> None:
    """To 0015."""
    op.execute("ALTER TABLE connections DROP COLUMN node")
