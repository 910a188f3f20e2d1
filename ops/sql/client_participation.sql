-- How did each client take part in a run?
-- An attempt counts once for every client that was invited to it, or passed over since it still owed an older answer
-- (not_sent). lost is of updates: they went with an ingest node.
-- No rows: no client was invited to a round.
SELECT
    client_id,
    COUNT(*) AS attempts,
    SUM(participation = 'answered') AS answered,
    SUM(participation = 'dropped') AS dropped,
    SUM(participation = 'timed_out') AS timed_out,
    SUM(participation = 'not_sent') AS not_sent,
    SUM(participation = 'cut_short') AS cut_short,
    COUNT(CASE decision WHEN 'accepted' THEN 1 END) AS accepted,
    COUNT(CASE decision WHEN 'rejected' THEN 1 END) AS rejected,
    COUNT(CASE decision WHEN 'late' THEN 1 END) AS late,
    AVG(seconds) AS mean_seconds,
    MAX(seconds) AS longest_seconds,
    (
        SELECT COUNT(*) FROM v1_clients AS k
        WHERE k.run_id = :run_id AND k.client_id = c.client_id
    ) AS registrations,
    COUNT(CASE decision WHEN 'aborted' THEN 1 END) AS aborted,
    COUNT(CASE decision WHEN 'lost' THEN 1 END) AS lost
FROM v1_client_rounds AS c
WHERE run_id = :run_id
GROUP BY client_id
ORDER BY accepted DESC, client_id;
