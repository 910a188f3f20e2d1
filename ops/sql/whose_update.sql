-- Whose update is this, by its digest?
-- :digest is an update's (of its tensors) or its message's (of its bytes); matched says which. Equal updates have one
-- digest. In any run of the database.
-- No rows: no update and no message of one has this digest.
SELECT
    u.run_id,
    CASE WHEN u.update_digest = :digest THEN 'update' ELSE 'message' END AS matched,
    u.client_id,
    u.answers_round AS round,
    u.answers_attempt AS attempt,
    u.decision,
    u.weight,
    u.received_at,
    u.identity,
    k.peer_host
FROM v1_updates AS u
JOIN v1_messages AS m ON m.message_id = u.message_id
JOIN v1_connections AS k ON k.connection_id = u.connection_id
WHERE :digest IN (u.update_digest, m.digest)
ORDER BY u.received_at, u.update_id;
