-- Which updates did not count, whose were they, and why?
-- Each that was rejected, late, a duplicate, aborted with its attempt, or lost with an ingest node.
-- The reason server stopped is that of a kill or a power cut; an orderly stop is stopped by ….
-- No rows: every update counted.
SELECT
    u.received_at,
    u.client_id,
    u.answers_round AS round,
    u.answers_attempt AS attempt,
    u.decision,
    u.reason,
    u.update_norm,
    u.update_digest,
    k.peer_host
FROM v1_updates AS u
JOIN v1_connections AS k ON k.connection_id = u.connection_id
WHERE u.run_id = :run_id AND u.decision <> 'accepted'
ORDER BY u.received_at, u.update_id;
