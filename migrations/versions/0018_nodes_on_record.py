"""The ingest nodes of a run: which process on which machine, since when and until when, and why it went.

What each served is counted from the rows of what happened on its connections, and from the sums of strangers, which say
since 0017 whose they are; that is brought in here from their events. Columns are added at the end.
"""

from alembic import op

revision = "0018"
down_revision = "0017"

STATEMENTS = (
    """
    CREATE TABLE nodes (
        run_id TEXT NOT NULL REFERENCES runs, node TEXT NOT NULL, slot INTEGER NOT NULL, process_id INTEGER NOT NULL,
        host TEXT NOT NULL, pid INTEGER NOT NULL, listen_host TEXT NOT NULL, listen_port INTEGER NOT NULL,
        code TEXT NOT NULL, libraries TEXT NOT NULL, cpu TEXT NOT NULL, started_at TEXT NOT NULL, ended_at TEXT,
        lost INTEGER, end_reason TEXT, PRIMARY KEY (run_id, node)
    ) STRICT
    """,
    "CREATE INDEX connections_by_node ON connections (run_id, node) WHERE node IS NOT NULL",
    "ALTER TABLE summaries ADD COLUMN node TEXT",
    """
    UPDATE summaries SET node = (SELECT payload ->> 'node' FROM events WHERE events.seq = summaries.event_seq)
    WHERE EXISTS (SELECT 1 FROM events WHERE events.seq = summaries.event_seq AND payload ->> 'node' IS NOT NULL)
    """,
)

_OF_NODE = "FROM connections AS c {} WHERE c.run_id = n.run_id AND c.node = n.node"
_MESSAGES = _OF_NODE.format("JOIN messages AS m ON m.connection_id = c.connection_id")
_UPDATES = _OF_NODE.format(
    "JOIN messages AS m ON m.connection_id = c.connection_id JOIN updates AS u ON u.message_id = m.message_id"
)
_STRANGERS = "FROM summaries AS s WHERE s.run_id = n.run_id AND s.node = n.node"

VIEWS = {
    "v1_nodes": f"""
        SELECT run_id, node, slot, process_id, host, pid, listen_host, listen_port, started_at, ended_at, lost,
            end_reason,
            (SELECT COUNT(*) {_OF_NODE.format("")})
                + (SELECT CAST(COALESCE(SUM(s.connections), 0) AS BIGINT) {_STRANGERS}) AS connections,
            (SELECT COUNT(*) {_UPDATES}) AS updates,
            (SELECT COUNT(*) {_UPDATES} AND u.decision = 'lost') AS updates_lost,
            (SELECT CAST(COALESCE(SUM(m.bytes), 0) AS BIGINT) {_MESSAGES} AND m.direction = 'in')
                + (SELECT CAST(COALESCE(SUM(s.message_bytes), 0) AS BIGINT) {_STRANGERS}) AS bytes_in,
            (SELECT CAST(COALESCE(SUM(m.bytes), 0) AS BIGINT) {_MESSAGES} AND m.direction = 'out')
                + (SELECT CAST(COALESCE(SUM(s.bytes_out), 0) AS BIGINT) {_STRANGERS}) AS bytes_out,
            code, libraries, cpu
        FROM nodes AS n""",
}


def upgrade() -> None:
    """From 0017."""
    for statement in STATEMENTS:
        op.execute(statement)
    for name, query in VIEWS.items():
        op.execute(f"CREATE VIEW {name} AS {query}")


def downgrade() -> None:
    """To 0017."""
    op.execute("ALTER TABLE summaries DROP COLUMN node")
    op.execute("DROP INDEX connections_by_node")
    op.execute("DROP TABLE nodes")
