-- What is the head of the chain of events?
-- Write seq and digest down somewhere else: whoever changes an earlier row later cannot bring this digest back
-- (flserver verify recomputes the chain). It is of the whole database, not of one run.
-- No rows: nothing is on record yet.
SELECT
    seq,
    digest,
    at,
    type,
    run_id,
    (SELECT COUNT(*) FROM v1_events) AS events,
    (SELECT COUNT(*) FROM v1_events WHERE payload IS NULL) AS purged
FROM v1_events
ORDER BY seq DESC
LIMIT 1;
