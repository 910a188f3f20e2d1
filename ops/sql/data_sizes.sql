-- How many samples did each client say it has, did that change, and did all of them count?
-- Of its updates; counted is by what the mean is weighted (--max-weight-share cap: lowers it).
-- No rows: there are no updates.
SELECT
    client_id,
    COUNT(*) AS updates,
    MIN(data_size) AS smallest,
    MAX(data_size) AS largest,
    MIN(counted_size) AS smallest_counted,
    MAX(counted_size) AS largest_counted,
    (
        SELECT COUNT(DISTINCT data_size) FROM v1_clients AS k
        WHERE k.run_id = :run_id AND k.client_id = u.client_id
    ) AS sizes_registered
FROM v1_updates AS u
WHERE run_id = :run_id
GROUP BY client_id
ORDER BY largest DESC, client_id;
