-- What did run :run_id move over the wire? Bytes with the 8 of each frame's length; round is NULL for registrations
-- and for what answered no round.
SELECT
    round,
    direction,
    header,
    outcome,
    COUNT(*) AS messages,
    SUM(bytes) AS bytes,
    SUM(seconds) AS seconds,
    MAX(seconds) AS longest_seconds
FROM v1_messages
WHERE run_id = :run_id
GROUP BY round, direction, header, outcome
ORDER BY round, direction, header, outcome;
