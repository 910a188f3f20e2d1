-- In which settings do two runs differ?
-- A setting that an older version did not have is NULL there. Trainers' own are in told_that_differs.
-- :other_run_id defaults to the run that began before.
-- No rows: they have the same settings, or there is no other run.
WITH one AS (
    SELECT s.key, s.value FROM v1_runs AS r, json_each(r.config) AS s WHERE r.run_id = :run_id
), other AS (
    SELECT s.key, s.value
    FROM v1_runs AS r, json_each(r.config) AS s
    WHERE r.run_id = COALESCE(
        NULLIF(:other_run_id, ''),
        (
            SELECT run_id FROM v1_runs
            WHERE started_at < (SELECT started_at FROM v1_runs WHERE run_id = :run_id)
            ORDER BY started_at DESC, run_id DESC
            LIMIT 1
        )
    )
)
SELECT names.key AS setting, one.value AS value, other.value AS other_value
FROM (SELECT key FROM one UNION SELECT key FROM other) AS names
LEFT JOIN one ON one.key = names.key
LEFT JOIN other ON other.key = names.key
WHERE COALESCE(one.value <> other.value, one.value IS NOT NULL OR other.value IS NOT NULL)
    AND EXISTS (SELECT 1 FROM other)
ORDER BY names.key;
