-- How did a run go, in one row?
-- Updates by their decision (lost: with the ingest node that had them), bytes with the 8 of each frame's length,
-- seconds of all attempts.
-- A run whose server was killed is running on record until the next server opens the database: tables say so beside it.
SELECT
    r.run_id,
    r.name,
    r.status,
    r.started_at,
    r.ended_at,
    r.rounds_committed,
    r.num_rounds,
    (SELECT COUNT(*) FROM v1_rounds AS a WHERE a.run_id = r.run_id AND a.status = 'aborted') AS aborted_attempts,
    (SELECT COUNT(*) FROM v1_processes AS p WHERE p.run_id = r.run_id) AS processes,
    (SELECT COUNT(DISTINCT client_id) FROM v1_clients AS c WHERE c.run_id = r.run_id) AS clients,
    u.accepted,
    u.late,
    u.duplicate,
    u.rejected,
    u.aborted,
    (SELECT SUM(bytes) FROM v1_messages AS m WHERE m.run_id = r.run_id AND m.direction = 'in') AS bytes_in,
    (SELECT SUM(bytes) FROM v1_messages AS m WHERE m.run_id = r.run_id AND m.direction = 'out') AS bytes_out,
    (SELECT SUM(seconds) FROM v1_rounds AS a WHERE a.run_id = r.run_id) AS seconds,
    r.final_digest,
    u.lost
FROM v1_runs AS r
LEFT JOIN (
    SELECT
        run_id,
        SUM(decision = 'accepted') AS accepted,
        SUM(decision = 'late') AS late,
        SUM(decision = 'duplicate') AS duplicate,
        SUM(decision = 'rejected') AS rejected,
        SUM(decision = 'aborted') AS aborted,
        SUM(decision = 'lost') AS lost
    FROM v1_updates
    GROUP BY run_id
) AS u ON u.run_id = r.run_id
WHERE r.run_id = :run_id;
