"""Who spoke: the forwarder's address of a connection, the roster's label of a client, whose word an update is.

Columns are added at the end, of the tables and of the views: what reads a view by name or by place goes on.
"""

from alembic import op

revision = "0002"
down_revision = "0001"

COLUMNS = (
    "ALTER TABLE connections ADD COLUMN proxy_host TEXT",
    "ALTER TABLE clients ADD COLUMN label TEXT",
    # Before there were certificates, every update was what its sender claimed.
    "ALTER TABLE updates ADD COLUMN identity TEXT NOT NULL DEFAULT 'claimed'",
)

VIEWS = {
    "v1_clients": """
        SELECT run_id, client_id, registration, connection_id, identity, data_size, info, registered_at, left_at,
            left_reason, label
        FROM clients""",
    "v1_connections": """
        SELECT run_id, connection_id, peer_host, peer_port, client_id, purpose, transport, certificate_subject,
            certificate_fingerprint, opened_at, closed_at, close_reason, bytes_in, bytes_out, proxy_host
        FROM connections""",
    "v1_updates": """
        SELECT run_id, update_id, message_id, connection_id, client_id, answers_round, answers_attempt, arrived_round,
            decision, reason, update_digest, data_size, weight, received_at, wait_seconds, upload_seconds, update_norm,
            identity
        FROM updates""",
}


def upgrade() -> None:
    """From 0001."""
    for statement in COLUMNS:
        op.execute(statement)
    for name, query in VIEWS.items():
        op.execute(f"DROP VIEW {name}")
        op.execute(f"CREATE VIEW {name} AS {query}")


def downgrade() -> None:
    """To 0001."""
    op.execute("ALTER TABLE connections DROP COLUMN proxy_host")
    op.execute("ALTER TABLE clients DROP COLUMN label")
    op.execute("ALTER TABLE updates DROP COLUMN identity")
