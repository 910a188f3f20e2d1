-- How did the global model learn?
-- What the server measured, beside the mean of what the clients measured on the same round's model when they received
-- it. Where it diverged, loss_note says NaN or Infinity.
-- No rows: no round is committed, not even the initial model.
SELECT
    r.round,
    r.loss,
    (
        SELECT note FROM v1_round_metrics AS m
        WHERE m.run_id = r.run_id AND m.round = r.round AND m.source = 'evaluate' AND m.name = 'loss'
    ) AS loss_note,
    r.accuracy,
    (
        SELECT value FROM v1_round_metrics AS m
        WHERE m.run_id = r.run_id AND m.round = r.round AND m.source = 'clients' AND m.name = 'loss'
    ) AS clients_loss,
    (
        SELECT value FROM v1_round_metrics AS m
        WHERE m.run_id = r.run_id AND m.round = r.round AND m.source = 'clients' AND m.name = 'accuracy'
    ) AS clients_accuracy,
    r.updates_accepted,
    r.data_size,
    r.model_digest
FROM v1_rounds AS r
WHERE r.run_id = :run_id AND r.status = 'committed'
ORDER BY r.round;
