-- Did the model get worse, and after whose updates?
-- The rounds whose accuracy is lower or whose loss is higher than the round's before, or no more finite (then it is
-- NULL, and note says what it was), with the updates that they are made of; times_the_others is an update's norm over
-- the mean of the others' in its round. by says what got worse: with loss alone the accuracy did not fall. Rounds
-- worse by both come first, then by accuracy; in one, the furthest update.
-- No rows: it never got worse, or nothing measured it (--eval-data, --evaluate), or it was never finite.
WITH not_finite AS (
    SELECT round, name, note FROM v1_round_metrics
    WHERE run_id = :run_id AND source <> 'clients' AND name IN ('accuracy', 'loss') AND note IS NOT NULL
), measured AS (
    SELECT
        round,
        attempt,
        accuracy,
        loss,
        (SELECT MAX(note) FROM not_finite AS n WHERE n.round = r.round AND n.name = 'accuracy') AS accuracy_note,
        (SELECT MAX(note) FROM not_finite AS n WHERE n.round = r.round AND n.name = 'loss') AS loss_note
    FROM v1_rounds AS r
    WHERE run_id = :run_id AND status = 'committed'
), curve AS (
    SELECT
        *,
        LAG(accuracy) OVER rounds AS accuracy_before,
        LAG(loss) OVER rounds AS loss_before
    FROM measured
    WINDOW rounds AS (ORDER BY round)
), compared AS (
    SELECT
        *,
        accuracy < accuracy_before OR (accuracy_before IS NOT NULL AND accuracy_note IS NOT NULL) AS by_accuracy,
        loss > loss_before OR (loss_before IS NOT NULL AND loss_note IS NOT NULL) AS by_loss
    FROM curve
), worse AS (
    SELECT
        *,
        CASE
            WHEN by_accuracy AND by_loss THEN 'both'
            WHEN by_accuracy THEN 'accuracy'
            WHEN by_loss THEN 'loss'
        END AS what
    FROM compared
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
    c.what AS "by",
    COALESCE(c.loss_note, c.accuracy_note) AS note
FROM worse AS c
LEFT JOIN v1_updates AS u
    ON u.run_id = :run_id AND u.answers_round = c.round AND u.answers_attempt = c.attempt
    AND u.decision = 'accepted'
WHERE c.what IS NOT NULL
WINDOW of_round AS (PARTITION BY c.round)
ORDER BY
    CASE c.what WHEN 'both' THEN 1 WHEN 'accuracy' THEN 2 ELSE 3 END, c.round, u.update_norm DESC NULLS LAST,
    u.client_id NULLS FIRST;
