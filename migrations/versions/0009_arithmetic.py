"""With which arithmetic a round was made; a run's is its last committed round's. Older rounds have none on record.

Columns are added at the end, of the table and of the views: what reads a view by name or by place goes on.
"""

from alembic import op

revision = "0009"
down_revision = "0008"

VIEWS = {
    "v1_rounds": """
        SELECT run_id, round, attempt, status, process_id, started_at, ended_at, deadline_at, seconds,
            broadcast_seconds, wait_seconds, aggregate_seconds, evaluate_seconds, checkpoint_seconds, clients,
            updates_accepted, data_size, base_digest, model_digest, checkpoint, checkpoint_bytes,
            checkpoint_deleted_at, loss, accuracy, event_seq, reason, arithmetic
        FROM rounds""",
    "v1_runs": """
        SELECT run_id, name, status, started_at, ended_at, num_rounds,
            (SELECT COUNT(*) FROM rounds WHERE rounds.run_id = runs.run_id AND rounds.status = 'committed'
                AND rounds.round > 0) AS rounds_committed,
            model, strategy, seed, config, final_digest, parent_run_id, parent_round,
            (SELECT server_version FROM processes WHERE processes.run_id = runs.run_id
                ORDER BY process_id LIMIT 1) AS server_version,
            (SELECT arithmetic FROM rounds WHERE rounds.run_id = runs.run_id AND rounds.status = 'committed'
                ORDER BY rounds.round DESC LIMIT 1) AS arithmetic
        FROM runs""",
}


def upgrade() -> None:
    """From 0008."""
    op.execute("ALTER TABLE rounds ADD COLUMN arithmetic TEXT")
    for name, query in VIEWS.items():
        op.execute(f"DROP VIEW {name}")
        op.execute(f"CREATE VIEW {name} AS {query}")


def downgrade() -> None:
    """To 0008."""
    op.execute("ALTER TABLE rounds DROP COLUMN arithmetic")
