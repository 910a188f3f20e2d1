-- With which settings was a run made?
-- As they were in force last; changed_on_resume has what a resumption changed.
-- No rows: the settings are not on record.
SELECT s.key AS setting, s.value
FROM v1_runs AS r, json_each(r.config) AS s
WHERE r.run_id = :run_id
ORDER BY s.key;
