"""The first schema: the record, the tables derived from it, and the views that are the contract."""

from alembic import op

revision = "0001"
down_revision = None

# The file says whose it is (SQLite's header, "FLsv"), so that another program's database is never taken for ours.
APPLICATION_ID = 0x464C7376

TABLES = (
    """
    CREATE TABLE events (
        seq INTEGER NOT NULL PRIMARY KEY, run_id TEXT NOT NULL, process_id INTEGER NOT NULL, type TEXT NOT NULL,
        at TEXT NOT NULL, payload TEXT, salt TEXT, payload_digest TEXT NOT NULL, previous_digest TEXT NOT NULL,
        digest TEXT NOT NULL
    ) STRICT
    """,
    """
    CREATE TABLE runs (
        run_id TEXT NOT NULL PRIMARY KEY, name TEXT NOT NULL, status TEXT NOT NULL, started_at TEXT NOT NULL,
        ended_at TEXT, num_rounds INTEGER NOT NULL, min_updates INTEGER, model TEXT NOT NULL, strategy TEXT NOT NULL,
        seed INTEGER NOT NULL, config TEXT NOT NULL, final_digest TEXT, parent_run_id TEXT, parent_round INTEGER,
        event_seq INTEGER NOT NULL
    ) STRICT
    """,
    """
    CREATE TABLE processes (
        process_id INTEGER NOT NULL PRIMARY KEY, run_id TEXT NOT NULL REFERENCES runs, host TEXT NOT NULL,
        user TEXT NOT NULL, pid INTEGER NOT NULL, server_version TEXT NOT NULL, python_version TEXT NOT NULL,
        torch_version TEXT NOT NULL, overrides TEXT NOT NULL, started_at TEXT NOT NULL, ended_at TEXT,
        exit_code INTEGER, resumed_from_round INTEGER
    ) STRICT
    """,
    """
    CREATE TABLE operator_events (
        event_seq INTEGER NOT NULL PRIMARY KEY, run_id TEXT NOT NULL, process_id INTEGER NOT NULL, at TEXT NOT NULL,
        kind TEXT NOT NULL, detail TEXT NOT NULL
    ) STRICT
    """,
    """
    CREATE TABLE connections (
        connection_id INTEGER NOT NULL PRIMARY KEY, run_id TEXT NOT NULL REFERENCES runs, peer_host TEXT NOT NULL,
        peer_port INTEGER NOT NULL, client_id TEXT, purpose TEXT NOT NULL, transport TEXT NOT NULL,
        certificate_subject TEXT, certificate_fingerprint TEXT, opened_at TEXT NOT NULL, closed_at TEXT,
        close_reason TEXT, bytes_in INTEGER, bytes_out INTEGER
    ) STRICT
    """,
    """
    CREATE TABLE clients (
        run_id TEXT NOT NULL, client_id TEXT NOT NULL, registration INTEGER NOT NULL,
        connection_id INTEGER NOT NULL REFERENCES connections, identity TEXT NOT NULL, data_size INTEGER NOT NULL,
        info TEXT NOT NULL, rejoined INTEGER NOT NULL, registered_at TEXT NOT NULL, left_at TEXT, left_reason TEXT,
        PRIMARY KEY (run_id, client_id, registration)
    ) STRICT
    """,
    """
    CREATE TABLE messages (
        message_id INTEGER NOT NULL PRIMARY KEY, run_id TEXT NOT NULL,
        connection_id INTEGER NOT NULL REFERENCES connections, client_id TEXT, round INTEGER, direction TEXT NOT NULL,
        header TEXT, encoding TEXT NOT NULL, bytes INTEGER NOT NULL, digest TEXT, at TEXT NOT NULL, seconds REAL,
        outcome TEXT NOT NULL, reason TEXT
    ) STRICT
    """,
    """
    CREATE TABLE updates (
        update_id INTEGER NOT NULL PRIMARY KEY, run_id TEXT NOT NULL, message_id INTEGER NOT NULL,
        connection_id INTEGER NOT NULL REFERENCES connections, client_id TEXT NOT NULL, answers_round INTEGER,
        answers_attempt INTEGER, arrived_round INTEGER, decision TEXT, reason TEXT, update_digest TEXT NOT NULL,
        data_size INTEGER NOT NULL, weight REAL, received_at TEXT NOT NULL, wait_seconds REAL, upload_seconds REAL,
        update_norm REAL
    ) STRICT
    """,
    """
    CREATE TABLE rounds (
        run_id TEXT NOT NULL REFERENCES runs, round INTEGER NOT NULL, attempt INTEGER NOT NULL, status TEXT NOT NULL,
        process_id INTEGER NOT NULL, started_at TEXT NOT NULL, ended_at TEXT, deadline_at TEXT, seconds REAL,
        broadcast_seconds REAL, wait_seconds REAL, aggregate_seconds REAL, evaluate_seconds REAL,
        checkpoint_seconds REAL, clients INTEGER NOT NULL, updates_accepted INTEGER, data_size INTEGER,
        base_digest TEXT, model_digest TEXT, checkpoint TEXT, checkpoint_bytes INTEGER, checkpoint_deleted_at TEXT,
        loss REAL, accuracy REAL, event_seq INTEGER,
        PRIMARY KEY (run_id, round, attempt)
    ) STRICT
    """,
    """
    CREATE TABLE client_rounds (
        run_id TEXT NOT NULL, round INTEGER NOT NULL, attempt INTEGER NOT NULL, client_id TEXT NOT NULL,
        participation TEXT, decision TEXT, reason TEXT, data_size INTEGER, weight REAL, sent_at TEXT, seconds REAL,
        bytes_in INTEGER, bytes_out INTEGER, update_norm REAL,
        PRIMARY KEY (run_id, round, attempt, client_id),
        FOREIGN KEY (run_id, round, attempt) REFERENCES rounds
    ) STRICT
    """,
    """
    CREATE TABLE round_metrics (
        run_id TEXT NOT NULL REFERENCES runs, round INTEGER NOT NULL, name TEXT NOT NULL, source TEXT NOT NULL,
        value REAL,
        PRIMARY KEY (run_id, round, name, source)
    ) STRICT
    """,
    """
    CREATE TABLE client_metrics (
        run_id TEXT NOT NULL, round INTEGER NOT NULL, client_id TEXT NOT NULL, name TEXT NOT NULL,
        measured_on TEXT NOT NULL, source TEXT NOT NULL, value REAL, update_id INTEGER NOT NULL REFERENCES updates,
        PRIMARY KEY (run_id, round, client_id, name, measured_on, source)
    ) STRICT
    """,
)

INDEXES = (
    "CREATE INDEX events_by_type ON events (run_id, type)",
    "CREATE INDEX runs_by_name ON runs (name)",
    "CREATE INDEX processes_by_run ON processes (run_id)",
    "CREATE INDEX operator_events_by_run ON operator_events (run_id)",
    "CREATE INDEX connections_by_client ON connections (run_id, client_id)",
    "CREATE INDEX clients_by_connection ON clients (connection_id)",
    "CREATE INDEX messages_by_round ON messages (run_id, round)",
    "CREATE INDEX messages_by_connection ON messages (connection_id)",
    "CREATE INDEX updates_by_attempt ON updates (run_id, answers_round, answers_attempt)",
    "CREATE INDEX updates_by_message ON updates (message_id)",
    "CREATE INDEX client_rounds_by_client ON client_rounds (run_id, client_id)",
    # A round is committed once, whatever the code above believes.
    "CREATE UNIQUE INDEX rounds_committed_once ON rounds (run_id, round) WHERE status = 'committed'",
)

VIEWS = {
    "v1_runs": """
        SELECT run_id, name, status, started_at, ended_at, num_rounds,
            (SELECT COUNT(*) FROM rounds WHERE rounds.run_id = runs.run_id AND rounds.status = 'committed'
                AND rounds.round > 0) AS rounds_committed,
            model, strategy, seed, config, final_digest, parent_run_id, parent_round,
            (SELECT server_version FROM processes WHERE processes.run_id = runs.run_id
                ORDER BY process_id LIMIT 1) AS server_version
        FROM runs""",
    "v1_processes": """
        SELECT process_id, run_id, host, user, pid, server_version, python_version, torch_version, overrides,
            started_at, ended_at, exit_code, resumed_from_round
        FROM processes""",
    "v1_operator_events": "SELECT run_id, process_id, at, kind, detail FROM operator_events",
    "v1_clients": """
        SELECT run_id, client_id, registration, connection_id, identity, data_size, info, registered_at, left_at,
            left_reason
        FROM clients""",
    "v1_connections": """
        SELECT run_id, connection_id, peer_host, peer_port, client_id, purpose, transport, certificate_subject,
            certificate_fingerprint, opened_at, closed_at, close_reason, bytes_in, bytes_out
        FROM connections""",
    "v1_messages": """
        SELECT run_id, message_id, connection_id, client_id, round, direction, header, encoding, bytes, digest, at,
            seconds, outcome, reason
        FROM messages""",
    "v1_updates": """
        SELECT run_id, update_id, message_id, connection_id, client_id, answers_round, answers_attempt, arrived_round,
            decision, reason, update_digest, data_size, weight, received_at, wait_seconds, upload_seconds, update_norm
        FROM updates""",
    "v1_rounds": """
        SELECT run_id, round, attempt, status, process_id, started_at, ended_at, deadline_at, seconds,
            broadcast_seconds, wait_seconds, aggregate_seconds, evaluate_seconds, checkpoint_seconds, clients,
            updates_accepted, data_size, base_digest, model_digest, checkpoint, checkpoint_bytes,
            checkpoint_deleted_at, loss, accuracy, event_seq
        FROM rounds""",
    "v1_client_rounds": """
        SELECT run_id, round, attempt, client_id, participation, decision, reason, data_size, weight, sent_at, seconds,
            bytes_in, bytes_out, update_norm
        FROM client_rounds""",
    "v1_round_metrics": "SELECT run_id, round, name, value, source FROM round_metrics",
    "v1_client_metrics": """
        SELECT run_id, round, client_id, name, value, measured_on, source FROM client_metrics""",
    "v1_events": "SELECT seq, run_id, type, at, payload, previous_digest, digest FROM events",
}


def upgrade() -> None:
    """From an empty file, or an empty database."""
    if op.get_context().dialect.name == "sqlite":
        op.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    for statement in (*TABLES, *INDEXES):
        op.execute(statement)
    for name, query in VIEWS.items():
        op.execute(f"CREATE VIEW {name} AS {query}")
