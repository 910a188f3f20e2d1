-- Did the model get worse, and after whose updates?
-- The rounds whose accuracy is lower or whose loss is higher than the round's before, with the updates that they are
-- made of; times_the_others is an update's norm over the mean of the others' in its round. by says what got worse: with
-- loss alone the accuracy did not fall. Rounds worse by both come first, then by accuracy; in one, the furthest update.
-- No rows: it never got worse, or nothing measured it (--eval-data, --evaluate).
WITH curve AS (
    SELECT
        round,
        attempt,
        accuracy,
        LAG(accuracy) OVER rounds AS accuracy_before,
        loss,
        LAG(loss) OVER rounds AS loss_before
    FROM v1_rounds
    WHERE run_id = :run_id AND status = 'committed'
    WINDOW rounds AS (ORDER BY round)
), worse AS (
    SELECT
        *,
        CASE
            WHEN accuracy < accuracy_before AND loss > loss_before THEN 'both'
            WHEN accuracy < accuracy_before THEN 'accuracy'
            WHEN loss > loss_before THEN 'loss'
        END AS what
    FROM curve
)
SELECT
    c.round,
    c.accuracy_before,
    c.accuracy,
    c.loss_before,
    c.loss,
    u.client_id,
    u.weight,
    u.update_norm,
    u.update_norm / NULLIF(
        (SUM(u.update_norm) OVER of_round - u.update_norm) / NULLIF(COUNT(u.update_norm) OVER of_round - 1, 0), 0
    ) AS times_the_others,
    c.what AS "by"
FROM worse AS c
LEFT JOIN v1_updates AS u
    ON u.run_id = :run_id AND u.answers_round = c.round AND u.answers_attempt = c.attempt
    AND u.decision = 'accepted'
WHERE c.what IS NOT NULL
WINDOW of_round AS (PARTITION BY c.round)
ORDER BY
    CASE c.what WHEN 'both' THEN 1 WHEN 'accuracy' THEN 2 ELSE 3 END, c.round, u.update_norm DESC, u.client_id;
