-- What did a client send, and when?
-- Every message of the client :client_id that came in; decision and why are of the update in it, if it was one.
-- No rows: it has sent nothing.
SELECT
    m.at,
    m.header,
    m.round,
    m.bytes,
    m.seconds,
    m.outcome,
    u.decision,
    COALESCE(u.reason, m.reason) AS why,
    u.data_size,
    u.update_norm,
    m.digest AS message_digest,
    u.update_digest,
    k.peer_host
FROM v1_messages AS m
JOIN v1_connections AS k ON k.connection_id = m.connection_id
LEFT JOIN v1_updates AS u ON u.message_id = m.message_id
WHERE m.run_id = :run_id AND m.client_id = :client_id AND m.direction = 'in'
ORDER BY m.at, m.message_id;
