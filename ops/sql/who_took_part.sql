-- Who took part in a round, and with what weight?
-- Those whose update was accepted come first. data_size is what a client said it has, weight its share of the model.
-- :round defaults to the last committed one.
-- No rows: nobody answered it.
SELECT
    c.attempt,
    c.client_id,
    (SELECT MAX(label) FROM v1_clients AS k WHERE k.run_id = c.run_id AND k.client_id = c.client_id) AS label,
    c.decision,
    c.reason,
    c.weight,
    c.data_size,
    c.update_norm,
    c.seconds,
    c.round
FROM v1_client_rounds AS c
WHERE c.run_id = :run_id AND c.participation = 'answered' AND c.round = COALESCE(
        CAST(NULLIF(:round, '') AS BIGINT),
        (SELECT MAX(round) FROM v1_rounds WHERE run_id = :run_id AND status = 'committed')
    )
ORDER BY c.attempt DESC, c.weight DESC NULLS LAST, c.client_id;
