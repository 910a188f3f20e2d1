-- What changed in the settings when a run was resumed?
-- Each setting that a resumption gave anew, with its value before and from then on, by whom and why.
-- No rows: no resumption gave another value.
SELECT
    at,
    process_id,
    detail ->> 'setting' AS setting,
    detail ->> 'before' AS before,
    detail ->> 'now' AS now,
    actor,
    reason
FROM v1_operator_events
WHERE run_id = :run_id AND kind = 'override'
ORDER BY at, setting;
