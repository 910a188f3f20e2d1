"""Which committed rounds rest on others, as a question to the database."""

RESTING = """
    WITH RECURSIVE resting (run_id, first) AS (
        SELECT value ->> 0, CAST(value ->> 1 AS BIGINT) FROM json_each(:seeds)
        UNION SELECT runs.run_id, 0 FROM resting JOIN v1_runs AS runs ON runs.parent_run_id = resting.run_id
            AND runs.parent_round >= resting.first),
    from_first AS (SELECT run_id, MIN(first) AS first FROM resting GROUP BY run_id)
    SELECT run_id, name, round,
        CASE WHEN EXISTS (SELECT 1 FROM v1_updates AS u WHERE u.run_id = from_first.run_id
                AND u.answers_round = v1_rounds.round AND u.client_id = :client AND u.decision = 'accepted')
            THEN 'an update in it' WHEN round = 0 THEN 'what it begins with' ELSE 'the round before it' END AS by,
        model_digest, checkpoint, checkpoint_deleted_at
    FROM from_first JOIN v1_rounds USING (run_id) JOIN v1_runs USING (run_id)
    WHERE v1_rounds.status = 'committed' AND round >= first
    ORDER BY v1_runs.started_at, run_id, round"""
"""From each of the ``seeds``, a run and a round (JSON), its rounds on, and those of its children that begin there or
later. ``by`` says what each rests on them by; ``client``, if there is one, is whose updates are looked for."""
