-- How many bytes did each client send and receive, by day?
-- Days are UTC's. client_id is NULL where nobody was identified; strangers without rows of their own are not in it.
-- No rows: nobody has sent or been sent anything.
SELECT
    substr(at, 1, 10) AS day,
    client_id,
    SUM(direction = 'in') AS messages_in,
    SUM(CASE WHEN direction = 'in' THEN bytes ELSE 0 END) AS bytes_in,
    SUM(direction = 'out') AS messages_out,
    SUM(CASE WHEN direction = 'out' THEN bytes ELSE 0 END) AS bytes_out
FROM v1_messages
WHERE run_id = :run_id
GROUP BY day, client_id
ORDER BY day, client_id NULLS FIRST;
