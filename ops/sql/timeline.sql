-- What happened in a run, and when?
-- What operators did, the server's processes, how each attempt ended, and who came and went.
-- The reason server stopped is that of a kill or a power cut; an orderly stop is stopped.
-- No rows: nothing of it is on record.
SELECT
    at,
    'operator: ' || kind AS what,
    CAST(NULL AS BIGINT) AS round,
    CAST(NULL AS TEXT) AS client_id,
    COALESCE(actor, '') AS detail
FROM v1_operator_events
WHERE run_id = :run_id
UNION ALL
SELECT started_at, 'process ' || process_id || ' began', NULL, NULL, host
FROM v1_processes
WHERE run_id = :run_id
UNION ALL
SELECT ended_at, 'process ' || process_id || ' ended', NULL, NULL, 'exit code ' || exit_code
FROM v1_processes
WHERE run_id = :run_id AND ended_at IS NOT NULL
UNION ALL
SELECT ended_at, 'attempt ' || attempt || ' ' || status, round, NULL, COALESCE(reason, updates_accepted || ' updates')
FROM v1_rounds
WHERE run_id = :run_id AND ended_at IS NOT NULL
UNION ALL
SELECT registered_at, 'client registered', NULL, client_id, 'registration ' || registration
FROM v1_clients
WHERE run_id = :run_id
UNION ALL
SELECT left_at, 'client left', NULL, client_id, left_reason
FROM v1_clients
WHERE run_id = :run_id AND left_at IS NOT NULL
ORDER BY at, what, client_id NULLS FIRST;
