-- How do the runs compare, in their settings and at their best?
-- Every run of the database, the newest first. Best is the highest accuracy, then the lowest loss; last is the newest
-- committed round. settings_that_differ names every setting in which two of them differ.
-- No rows: there are no runs yet.
WITH ranked AS (
    SELECT
        run_id,
        round,
        loss,
        accuracy,
        ROW_NUMBER() OVER (PARTITION BY run_id ORDER BY accuracy DESC NULLS LAST, loss NULLS LAST, round DESC) AS place,
        ROW_NUMBER() OVER (PARTITION BY run_id ORDER BY round DESC) AS age
    FROM v1_rounds
    WHERE status = 'committed'
)
SELECT
    r.run_id,
    r.name,
    r.status,
    r.rounds_committed,
    (SELECT COUNT(DISTINCT client_id) FROM v1_clients AS c WHERE c.run_id = r.run_id) AS clients,
    CASE WHEN COALESCE(best.accuracy, best.loss) IS NOT NULL THEN best.round END AS best_round,
    best.accuracy AS best_accuracy,
    best.loss AS best_loss,
    last.accuracy AS last_accuracy,
    last.loss AS last_loss,
    r.model,
    r.strategy,
    r.seed,
    json_extract(r.config, '$.min_clients') AS min_clients,
    json_extract(r.config, '$.round_timeout') AS round_timeout,
    json_extract(r.config, '$.go_on_at') AS go_on_at,
    json_extract(r.config, '$.max_update_norm') AS max_update_norm,
    r.parent_run_id,
    r.parent_round
FROM v1_runs AS r
LEFT JOIN ranked AS best ON best.run_id = r.run_id AND best.place = 1
LEFT JOIN ranked AS last ON last.run_id = r.run_id AND last.age = 1
ORDER BY r.started_at DESC, r.run_id DESC;
