-- Which models should be on the disk, and what are their digests?
-- Of each committed round; checkpoint lies below the checkpoint directory. sha256sum prints model_digest without
-- sha256: before it. deleted_at is when --keep-checkpoints or a purge took it.
-- No rows: no round is committed, not even the initial model.
SELECT
    round,
    model_digest,
    checkpoint,
    checkpoint_bytes,
    checkpoint_deleted_at AS deleted_at,
    arithmetic
FROM v1_rounds
WHERE run_id = :run_id AND status = 'committed'
ORDER BY round;
