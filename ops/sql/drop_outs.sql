-- Who dropped out, in which round, and did it come back?
-- Registrations that ended before the run or the server did. round is the one that was being made then.
-- Who was there when a server was killed, left as server stopped, is not among them.
-- No rows: nobody dropped out.
SELECT
    c.client_id,
    c.label,
    c.registration,
    c.left_at,
    c.left_reason,
    (
        SELECT MAX(round) FROM v1_rounds AS r
        WHERE r.run_id = c.run_id AND r.started_at <= c.left_at AND (r.ended_at IS NULL OR r.ended_at >= c.left_at)
    ) AS round,
    (
        SELECT MIN(registered_at) FROM v1_clients AS k
        WHERE k.run_id = c.run_id AND k.client_id = c.client_id AND k.registration > c.registration
    ) AS came_back_at
FROM v1_clients AS c
WHERE c.run_id = :run_id AND c.left_reason NOT IN ('finished', 'stopped', 'server stopped')
ORDER BY c.left_at, c.client_id;
