-- What moved over the wire, round by round?
-- Bytes with the 8 of each frame's length; round is NULL for registrations and for what answered no round.
-- No rows: nobody has sent or been sent anything.
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
ORDER BY round NULLS FIRST, direction, header NULLS FIRST, outcome;
