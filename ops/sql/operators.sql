-- Who operated a run: started, resumed, changed or stopped it, when, and why?
-- No rows: nobody is on record as having done anything.
SELECT e.at, e.kind, e.actor, e.reason, e.process_id, p.host, p.user, e.detail
FROM v1_operator_events AS e
LEFT JOIN v1_processes AS p ON p.process_id = e.process_id
WHERE e.run_id = :run_id
ORDER BY e.at, e.kind, e.detail;
