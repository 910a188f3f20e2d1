-- What changed in the settings when a run was resumed?
-- Each setting that a resumption gave anew, with its value before and from then on, by whom and why; and what was not
-- as before without being a setting: kind says which it is (setting, code, library, CPU, arithmetic). Of code the
-- values are digests, of a library versions.
-- No rows: no resumption gave another value, and code, libraries and CPU were the same, as far as they are on record.
SELECT
    at,
    process_id,
    detail ->> 'setting' AS setting,
    json_extract(detail, '$.before') AS before,
    json_extract(detail, '$.now') AS now,
    actor,
    reason,
    CASE
        WHEN detail ->> 'setting' LIKE 'code.%' THEN 'code'
        WHEN detail ->> 'setting' LIKE 'libraries.%' THEN 'library'
        WHEN detail ->> 'setting' = 'cpu' THEN 'CPU'
        WHEN detail ->> 'setting' = 'arithmetic' THEN 'arithmetic'
        ELSE 'setting'
    END AS kind
FROM v1_operator_events
WHERE run_id = :run_id AND kind = 'override'
ORDER BY at, setting;
