-- How much of the model is each client's, over the whole run?
-- Its weights in the committed rounds (they sum to 1 in each), and how far its updates moved away from the model that
-- they started from.
-- No rows: no update is accepted.
SELECT
    client_id,
    COUNT(*) AS rounds,
    SUM(weight) / (
        SELECT NULLIF(COUNT(*), 0) FROM v1_rounds
        WHERE run_id = :run_id AND status = 'committed' AND round > 0
    ) AS mean_share,
    MAX(weight) AS largest_share,
    AVG(update_norm) AS mean_update_norm,
    MAX(update_norm) AS largest_update_norm
FROM v1_updates
WHERE run_id = :run_id AND decision = 'accepted'
GROUP BY client_id
ORDER BY mean_share DESC NULLS LAST, client_id;
