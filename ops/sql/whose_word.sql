-- Whose word is the model made of?
-- Each client's accepted updates: authenticated by a certificate or only claimed, from which addresses, through which
-- forwarders, with which certificates.
-- No rows: no update is accepted.
SELECT
    u.client_id,
    MAX(c.label) AS label,
    u.identity,
    COUNT(*) AS updates,
    ROUND(SUM(u.weight), 4) AS weight_of_all_rounds,
    GROUP_CONCAT(DISTINCT k.peer_host) AS addresses,
    GROUP_CONCAT(DISTINCT k.proxy_host) AS forwarders,
    GROUP_CONCAT(DISTINCT k.certificate_fingerprint) AS certificates
FROM v1_updates AS u
JOIN v1_connections AS k ON k.connection_id = u.connection_id
LEFT JOIN (
    SELECT run_id, client_id, MAX(label) AS label FROM v1_clients GROUP BY run_id, client_id
) AS c ON c.run_id = u.run_id AND c.client_id = u.client_id
WHERE u.run_id = :run_id AND u.decision = 'accepted'
GROUP BY u.client_id, u.identity
ORDER BY u.client_id, u.identity;
