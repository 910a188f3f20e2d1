-- From which rounds and runs does the model with this digest come?
-- From :digest back to the first initial model: the rounds before it, and where its run began with another run's model,
-- that one's. Where two runs have a model of this digest, the way of the newer one.
-- No rows: no committed round has a model with this digest.
WITH RECURSIVE way (step, run_id, round) AS (
    SELECT * FROM (
        SELECT 0, r.run_id, r.round
        FROM v1_rounds AS r
        JOIN v1_runs AS n USING (run_id)
        WHERE r.model_digest = :digest AND r.status = 'committed'
        ORDER BY n.started_at DESC, r.run_id DESC, r.round DESC
        LIMIT 1
    ) AS made
    UNION ALL
    SELECT
        w.step + 1,
        CASE WHEN w.round > 0 THEN w.run_id ELSE n.parent_run_id END,
        CASE WHEN w.round > 0 THEN w.round - 1 ELSE n.parent_round END
    FROM way AS w
    JOIN v1_runs AS n USING (run_id)
    WHERE w.round > 0 OR n.parent_run_id IS NOT NULL
)
SELECT
    w.step,
    w.run_id,
    n.name,
    w.round,
    r.updates_accepted,
    r.ended_at,
    r.model_digest
FROM way AS w
JOIN v1_runs AS n USING (run_id)
JOIN v1_rounds AS r ON r.run_id = w.run_id AND r.round = w.round AND r.status = 'committed'
ORDER BY w.step;
