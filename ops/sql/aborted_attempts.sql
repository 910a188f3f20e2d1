-- Which attempts at a round came to nothing, and why?
-- answered and silent are of the clients that were invited; made_by_attempt is the one that was committed after all.
-- The reason server stopped is that of a kill or a power cut; an orderly stop is stopped by ….
-- No rows: every attempt was committed.
SELECT
    r.round,
    r.attempt,
    r.reason,
    r.started_at,
    r.seconds,
    r.process_id,
    (
        SELECT COUNT(*) FROM v1_client_rounds AS c
        WHERE c.run_id = r.run_id AND c.round = r.round AND c.attempt = r.attempt AND c.participation = 'answered'
    ) AS answered,
    (
        SELECT COUNT(*) FROM v1_client_rounds AS c
        WHERE c.run_id = r.run_id AND c.round = r.round AND c.attempt = r.attempt AND c.participation <> 'answered'
    ) AS silent,
    (
        SELECT attempt FROM v1_rounds AS made
        WHERE made.run_id = r.run_id AND made.round = r.round AND made.status = 'committed'
    ) AS made_by_attempt
FROM v1_rounds AS r
WHERE r.run_id = :run_id AND r.status = 'aborted'
ORDER BY r.round, r.attempt;
