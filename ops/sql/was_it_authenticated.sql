-- Was a client authenticated, and how?
-- Each registration: authenticated by a certificate, or only claimed by the message; from where.
-- :client_id defaults to all clients.
-- No rows: no client has registered.
SELECT
    c.client_id,
    c.label,
    c.registration,
    c.registered_at,
    c.identity,
    k.transport,
    k.peer_host,
    k.proxy_host,
    k.certificate_subject,
    k.certificate_fingerprint,
    c.left_at,
    c.left_reason
FROM v1_clients AS c
JOIN v1_connections AS k ON k.connection_id = c.connection_id
WHERE c.run_id = :run_id AND (NULLIF(:client_id, '') IS NULL OR c.client_id = :client_id)
ORDER BY c.client_id, c.registration;
