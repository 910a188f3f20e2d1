-- Which updates, from whom, made the model with this digest?
-- :digest is what sha256sum prints of the file, in SQL with sha256: before it. Each with its weight, and the message
-- that it came over. One digest may belong to several runs: equal updates give equal files.
-- No rows: no committed round has a model with this digest, or it is an initial one, which no update made.
SELECT
    r.run_id,
    r.round,
    r.attempt,
    r.base_digest,
    u.client_id,
    u.weight,
    u.data_size,
    u.counted_size,
    u.update_norm,
    u.update_digest,
    u.update_id,
    m.digest AS message_digest,
    k.peer_host
FROM v1_rounds AS r
JOIN v1_updates AS u
    ON u.run_id = r.run_id AND u.answers_round = r.round AND u.answers_attempt = r.attempt
    AND u.decision = 'accepted'
JOIN v1_messages AS m ON m.message_id = u.message_id
JOIN v1_connections AS k ON k.connection_id = u.connection_id
WHERE r.model_digest = :digest AND r.status = 'committed'
ORDER BY r.run_id, r.round, u.client_id;
