-- Which client slows the rounds, by its training or by its transfer?
-- Of accepted updates: training_seconds from the model sent to the answer's first byte, transfer_seconds from its first
-- to its last. times_last is how often it was the last one, waited_for_seconds how long all others waited for it then.
-- No rows: no update is accepted.
WITH answers AS (
    SELECT
        client_id,
        wait_seconds,
        upload_seconds,
        LEAD(received_at) OVER attempts IS NULL AS is_last,
        (julianday(received_at) - julianday(LAG(received_at) OVER attempts)) * 86400 AS after_the_one_before
    FROM v1_updates
    WHERE run_id = :run_id AND decision = 'accepted'
    WINDOW attempts AS (PARTITION BY answers_round, answers_attempt ORDER BY received_at, update_id)
)
SELECT
    client_id,
    COUNT(*) AS updates,
    SUM(is_last) AS times_last,
    COALESCE(SUM(CASE WHEN is_last THEN after_the_one_before END), 0.0) AS waited_for_seconds,
    AVG(wait_seconds) AS mean_training_seconds,
    MAX(wait_seconds) AS longest_training_seconds,
    AVG(upload_seconds) AS mean_transfer_seconds,
    MAX(upload_seconds) AS longest_transfer_seconds,
    CASE WHEN SUM(upload_seconds) > SUM(wait_seconds) THEN 'transfer' ELSE 'training' END AS mostly
FROM answers
GROUP BY client_id
ORDER BY waited_for_seconds DESC, client_id;
