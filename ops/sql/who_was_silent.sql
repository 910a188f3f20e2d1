-- Who was invited and did not answer, and why?
-- dropped: its connection ended first. timed_out: the deadline, or the end by --go-on-at, came first; decision late
-- says that its answer came afterwards. not_sent: it was passed over. cut_short: the attempt was aborted first.
-- :round defaults to all rounds.
-- No rows: everybody who was invited answered.
SELECT
    c.round,
    c.attempt,
    c.client_id,
    (SELECT MAX(label) FROM v1_clients AS k WHERE k.run_id = c.run_id AND k.client_id = c.client_id) AS label,
    c.participation,
    c.decision,
    COALESCE(
        c.reason,
        CASE c.participation
            WHEN 'dropped' THEN (
                SELECT left_reason FROM v1_clients AS k
                WHERE k.run_id = c.run_id AND k.client_id = c.client_id AND k.left_at >= r.started_at
                ORDER BY k.left_at
                LIMIT 1
            )
            WHEN 'cut_short' THEN r.reason
        END
    ) AS why,
    c.sent_at
FROM v1_client_rounds AS c
JOIN v1_rounds AS r USING (run_id, round, attempt)
WHERE c.run_id = :run_id AND c.participation <> 'answered'
    AND (NULLIF(:round, '') IS NULL OR c.round = :round)
ORDER BY c.round, c.attempt, c.client_id;
