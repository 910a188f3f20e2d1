-- Who slowed a round?
-- First who has no seconds: who never answered, and who was not sent the model (not_sent), for whom nobody waited. Then
-- the slowest. wait_seconds: from the model sent to the answer's first byte, elsewhere training_seconds;
-- upload_seconds: its transfer.
-- :round defaults to the last committed one.
-- No rows: no client was invited to it.
SELECT
    c.attempt,
    c.client_id,
    c.participation,
    c.decision,
    c.seconds,
    u.wait_seconds,
    u.upload_seconds,
    c.bytes_in,
    r.wait_seconds AS round_wait_seconds,
    c.round
FROM v1_client_rounds AS c
JOIN v1_rounds AS r USING (run_id, round, attempt)
LEFT JOIN v1_updates AS u
    ON u.run_id = c.run_id AND u.client_id = c.client_id
    AND u.answers_round = c.round AND u.answers_attempt = c.attempt
WHERE c.run_id = :run_id AND c.round = COALESCE(
        CAST(NULLIF(:round, '') AS BIGINT),
        (SELECT MAX(round) FROM v1_rounds WHERE run_id = :run_id AND status = 'committed')
    )
ORDER BY c.attempt, c.seconds DESC NULLS FIRST, c.client_id;
