-- What was refused, from whom, and from where?
-- Messages that were refused or cut off, and updates that did not count; most often first. Beyond
-- --strangers-per-minute the place is a network, and the reason one word.
-- No rows: nothing was refused or cut off, and every update counted.
SELECT
    t.what,
    t.reason,
    k.peer_host,
    t.client_id,
    COUNT(*) AS times,
    MIN(t.at) AS first_at,
    MAX(t.at) AS last_at
FROM (
    SELECT 'message ' || outcome AS what, reason, connection_id, client_id, at
    FROM v1_messages
    WHERE run_id = :run_id AND direction = 'in' AND outcome <> 'ok'
    UNION ALL
    SELECT 'update ' || decision, reason, connection_id, client_id, received_at
    FROM v1_updates
    WHERE run_id = :run_id AND decision IN ('rejected', 'duplicate', 'late')
) AS t
JOIN v1_connections AS k ON k.connection_id = t.connection_id
GROUP BY t.what, t.reason, k.peer_host, t.client_id
UNION ALL
SELECT 'message ' || outcome, reason, prefix, NULL, SUM(messages), MIN(minute), MAX(minute)
FROM v1_summaries
WHERE run_id = :run_id AND messages > 0
GROUP BY outcome, reason, prefix
ORDER BY times DESC, last_at DESC;
