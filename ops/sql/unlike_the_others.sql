-- Whose updates are unlike the others'?
-- times_the_others is the update's norm, its L2 distance from the model that was sent, over the mean of the others' in
-- its attempt. The furthest comes first. NULL norms (of what could not be compared) are left out. update_cosine is how
-- much of it is in the direction of the last round's step: 1 along it, 0 across, -1 against; NULL in round 1, and in
-- the first after a resumption whose last two checkpoints are not both there.
-- No rows: no update has a norm.
SELECT
    answers_round AS round,
    answers_attempt AS attempt,
    client_id,
    decision,
    weight,
    update_norm,
    (SUM(update_norm) OVER attempts - update_norm) / NULLIF(COUNT(*) OVER attempts - 1, 0) AS mean_norm_of_the_others,
    update_norm / NULLIF(
        (SUM(update_norm) OVER attempts - update_norm) / NULLIF(COUNT(*) OVER attempts - 1, 0), 0
    ) AS times_the_others,
    update_cosine
FROM v1_updates
WHERE run_id = :run_id AND update_norm IS NOT NULL
WINDOW attempts AS (PARTITION BY answers_round, answers_attempt)
ORDER BY times_the_others DESC NULLS LAST, round NULLS FIRST, attempt NULLS FIRST, client_id;
