-- Which ingest node served whom, and which of them went?
-- A row a node and a client on its connections; without a client those that came to nothing and have rows.
-- lost is 1 where the node was gone before its time, with end_reason; updates_lost are the client's with the decision
-- lost.
-- :client_id defaults to all clients.
-- No rows: the server served its trainers itself, or the record is older than its table of nodes.
SELECT
    n.node,
    n.slot,
    n.host,
    n.pid,
    n.listen_host,
    n.listen_port,
    n.process_id,
    n.started_at,
    n.ended_at,
    n.lost,
    n.end_reason,
    s.client_id,
    COALESCE(s.connections, 0) AS connections,
    COALESCE(s.updates, 0) AS updates,
    COALESCE(s.updates_lost, 0) AS updates_lost
FROM v1_nodes AS n
LEFT JOIN (
    SELECT
        c.node,
        c.client_id,
        COUNT(DISTINCT c.connection_id) AS connections,
        COUNT(u.update_id) AS updates,
        COUNT(CASE WHEN u.decision = 'lost' THEN 1 END) AS updates_lost
    FROM v1_connections AS c
    LEFT JOIN v1_updates AS u ON u.run_id = c.run_id AND u.connection_id = c.connection_id
    WHERE c.run_id = :run_id AND c.node IS NOT NULL AND (NULLIF(:client_id, '') IS NULL OR c.client_id = :client_id)
    GROUP BY c.node, c.client_id
) AS s ON s.node = n.node
WHERE n.run_id = :run_id AND (NULLIF(:client_id, '') IS NULL OR s.client_id IS NOT NULL)
ORDER BY n.started_at, n.node, s.client_id;
