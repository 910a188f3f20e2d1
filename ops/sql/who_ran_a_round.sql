-- Which server process made a round, and who had started it?
-- Each attempt at it; actor and reason are those of the process's start or resumption.
-- :round defaults to the last committed one.
-- No rows: there was no attempt at it.
SELECT
    r.round,
    r.attempt,
    r.status,
    r.started_at,
    r.process_id,
    p.host,
    p.user,
    p.pid,
    p.server_version,
    p.python_version,
    p.torch_version,
    p.resumed_from_round,
    (
        SELECT actor FROM v1_operator_events AS e
        WHERE e.process_id = r.process_id AND e.kind IN ('start', 'resume') ORDER BY e.at LIMIT 1
    ) AS actor,
    (
        SELECT reason FROM v1_operator_events AS e
        WHERE e.process_id = r.process_id AND e.kind IN ('start', 'resume') ORDER BY e.at LIMIT 1
    ) AS reason
FROM v1_rounds AS r
LEFT JOIN v1_processes AS p ON p.process_id = r.process_id
WHERE r.run_id = :run_id AND r.round = COALESCE(
        CAST(NULLIF(:round, '') AS BIGINT),
        (SELECT MAX(round) FROM v1_rounds WHERE run_id = :run_id AND status = 'committed')
    )
ORDER BY r.attempt;
