-- Which round's model is the best, and where is it?
-- The highest accuracy, then the lowest loss, then the newest. checkpoint lies below the checkpoint directory;
-- sha256sum prints its model_digest.
-- No rows: no committed round has a finite accuracy or loss: nothing measured it (--eval-data, --evaluate), or it
-- diverged, and got_worse and learning_curve say so.
SELECT
    round,
    accuracy,
    loss,
    updates_accepted,
    model_digest,
    checkpoint,
    checkpoint_bytes,
    checkpoint_deleted_at,
    (SELECT MAX(round) FROM v1_rounds WHERE run_id = :run_id AND status = 'committed') AS last_round
FROM v1_rounds
WHERE run_id = :run_id AND status = 'committed' AND COALESCE(accuracy, loss) IS NOT NULL
ORDER BY accuracy DESC NULLS LAST, loss NULLS LAST, round DESC
LIMIT 1;
