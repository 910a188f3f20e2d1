-- In what did trainers tell otherwise of themselves in two runs, such as their learning rate?
-- What clients that were invited to a round told under one name: all values of a run, told apart by commas. NULL is
-- where they told none, or what they told was purged. distinct_values is how many there are, clients who told one.
-- Numbers have 15 digits.
-- :other_run_id defaults to the run that began before.
-- No rows: their trainers told the same or nothing, or there is no other run.
WITH sides AS (
    SELECT :run_id AS run_id, 'one' AS side
    UNION ALL
    SELECT
        COALESCE(
            NULLIF(:other_run_id, ''),
            (
                SELECT run_id FROM v1_runs
                WHERE started_at < (SELECT started_at FROM v1_runs WHERE run_id = :run_id)
                ORDER BY started_at DESC, run_id DESC
                LIMIT 1
            )
        ),
        'other'
), pairs AS (
    SELECT DISTINCT
        sides.side,
        c.client_id,
        substr(s.key, 1, 200) AS key,
        CASE
            WHEN s.type IN ('true', 'false') THEN s.type
            WHEN s.type <> 'text' THEN
                CASE
                    WHEN ABS(CAST(s.atom AS DOUBLE PRECISION)) >= 1e15 THEN CAST(s.atom AS TEXT)
                    WHEN CAST(s.atom AS DOUBLE PRECISION) = CAST(CAST(s.atom AS DOUBLE PRECISION) AS BIGINT)
                        THEN CAST(CAST(CAST(s.atom AS DOUBLE PRECISION) AS BIGINT) AS TEXT)
                    ELSE CAST(s.atom AS TEXT)
                END
            ELSE substr(s.atom, 1, 200)
        END AS value
    FROM sides
    JOIN v1_clients AS c USING (run_id),
        json_each(c.info) AS s
    WHERE s.type IN ('integer', 'real', 'text', 'true', 'false')
        AND (c.run_id, c.client_id) IN (
            SELECT run_id, client_id FROM v1_client_rounds WHERE run_id IN (SELECT run_id FROM sides)
        )
), told AS (
    SELECT key, value, MAX(side = 'one') AS in_one, MAX(side = 'other') AS in_other
    FROM pairs
    GROUP BY key, value
    ORDER BY key, value
), clients AS (
    SELECT
        key,
        COUNT(DISTINCT CASE side WHEN 'one' THEN client_id END) AS of_one,
        COUNT(DISTINCT CASE side WHEN 'other' THEN client_id END) AS of_other
    FROM pairs
    GROUP BY key
)
SELECT
    told.key AS told,
    GROUP_CONCAT(CASE WHEN in_one THEN value END, ', ') AS value,
    GROUP_CONCAT(CASE WHEN in_other THEN value END, ', ') AS other_value,
    SUM(in_one) AS distinct_values,
    SUM(in_other) AS other_distinct_values,
    clients.of_one AS clients,
    clients.of_other AS other_clients
FROM told
JOIN clients ON clients.key = told.key
WHERE EXISTS (SELECT 1 FROM sides WHERE side = 'other' AND run_id IS NOT NULL)
GROUP BY told.key, clients.of_one, clients.of_other
HAVING NOT MIN(in_one AND in_other)
ORDER BY told.key;
