-- Where did the time of each round go?
-- Seconds of each phase of each committed round; other_seconds is what no phase accounts for.
-- No rows: no round is committed, not even the initial model.
SELECT
    round,
    attempt,
    seconds,
    broadcast_seconds,
    wait_seconds,
    aggregate_seconds,
    evaluate_seconds,
    checkpoint_seconds,
    seconds - COALESCE(broadcast_seconds, 0) - COALESCE(wait_seconds, 0) - COALESCE(aggregate_seconds, 0)
        - COALESCE(evaluate_seconds, 0) - COALESCE(checkpoint_seconds, 0) AS other_seconds
FROM v1_rounds
WHERE run_id = :run_id AND status = 'committed'
ORDER BY round;
