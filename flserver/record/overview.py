"""The runs of a record, a row each, as people are shown them first."""

RUNS = """
    SELECT r.run_id, name, r.status, strategy, rounds_committed, num_rounds,
        (SELECT COUNT(DISTINCT client_id) FROM v1_clients AS c WHERE c.run_id = r.run_id) AS clients,
        last.loss, last.accuracy, model, r.started_at, r.ended_at, parent_run_id, parent_round
    FROM v1_runs AS r
    LEFT JOIN v1_rounds AS last ON last.run_id = r.run_id AND last.status = 'committed' AND last.round = (
        SELECT MAX(round) FROM v1_rounds AS l WHERE l.run_id = r.run_id AND l.status = 'committed')
    ORDER BY r.started_at DESC, r.run_id DESC"""
"""The newest first; loss and accuracy are of the last committed round."""
