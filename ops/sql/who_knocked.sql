-- Who came to the port and took no part?
-- Connections that became neither a registration nor an update: those with rows of their own, by address, and beyond
-- --strangers-per-minute their sums, by network; most first.
-- No rows: everybody who came took part.
SELECT
    k.peer_host AS whence,
    k.close_reason AS reason,
    COUNT(*) AS connections,
    SUM(k.bytes_in) AS bytes_in,
    SUM(k.bytes_out) AS bytes_out,
    MIN(k.opened_at) AS first_at,
    MAX(k.opened_at) AS last_at
FROM v1_connections AS k
WHERE k.run_id = :run_id
    AND NOT EXISTS (SELECT 1 FROM v1_clients AS c WHERE c.connection_id = k.connection_id)
    AND NOT EXISTS (SELECT 1 FROM v1_updates AS u WHERE u.connection_id = k.connection_id)
GROUP BY k.peer_host, k.close_reason
UNION ALL
SELECT prefix, reason, SUM(connections), SUM(bytes_in), SUM(bytes_out), MIN(minute), MAX(minute)
FROM v1_summaries
WHERE run_id = :run_id
GROUP BY prefix, reason
ORDER BY connections DESC, last_at DESC, whence NULLS FIRST, reason NULLS FIRST;
