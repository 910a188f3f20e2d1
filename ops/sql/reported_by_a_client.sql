-- What did a client report that it measured?
-- As it was sent, of the client :client_id. measured_on: the global model as received, or its own, trained.
-- server_value is what the server measured under the same name on that round's model.
-- No rows: it has reported nothing. Unchanged trainers never do.
SELECT
    c.round,
    c.measured_on,
    c.name,
    c.value,
    c.note,
    CASE WHEN c.measured_on = 'received' THEN (
        SELECT value FROM v1_round_metrics AS m
        WHERE m.run_id = c.run_id AND m.round = c.round AND m.name = c.name AND m.source = 'evaluate'
    ) END AS server_value
FROM v1_client_metrics AS c
WHERE c.run_id = :run_id AND c.client_id = :client_id
ORDER BY c.round, c.measured_on, c.name;
