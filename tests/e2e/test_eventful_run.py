"""The eventful run went as its trainers tell it."""

from tests.e2e.harness import sql
from tests.eventful_run import AFTER, BEFORE, HOSTS, IMPOSTOR, LOOK_ALIKE, NETWORK, SCANNER, Facts

NIGHT = "run_id = (SELECT run_id FROM v1_runs WHERE name = 'night')"


def test_everything_is_decided_as_the_trainers_expect(eventful: Facts) -> None:
    columns = "name, client_id, answers_round, answers_attempt, decision, update_digest"
    rows = sql(eventful.db, f"SELECT {columns} FROM v1_updates JOIN v1_runs USING (run_id)")
    told = [
        (u.run, u.client, *((None, None) if u.decision == "duplicate" else (u.round, u.attempt)), u.decision, u.digest)
        for u in eventful.uploads
    ]
    assert sorted(rows, key=str) == sorted(told, key=str)
    assert len(told) == 20


def test_who_was_invited_and_did_not_answer(eventful: Facts) -> None:
    silent = "participation <> 'answered' ORDER BY round, attempt, client_id"
    columns = "round, attempt, client_id, participation"
    assert sql(eventful.db, f"SELECT {columns} FROM v1_client_rounds WHERE {NIGHT} AND {silent}") == [
        (3, 1, "3", "dropped"),
        *((4, 1, client, "cut_short") for client in ("2", "3", "4")),
        (4, 2, "4", "timed_out"),
        (5, 1, "4", "not_sent"),
    ]
    assert sql(eventful.db, f"SELECT client_id, COUNT(*) FROM v1_clients WHERE {NIGHT} GROUP BY 1") == [
        (client, 2) for client in "1234"
    ]


def test_what_was_refused(eventful: Facts) -> None:
    columns = "peer_host, outcome, reason, bytes"
    rows = sql(
        eventful.db,
        f"SELECT {columns} FROM v1_messages JOIN v1_connections USING (connection_id)"
        " WHERE outcome <> 'ok' ORDER BY message_id",
    )
    assert [(host, outcome) for host, outcome, *_ in rows] == [
        (SCANNER, "refused"),
        (IMPOSTOR, "refused"),
        (HOSTS["2"], "failed"),
        (HOSTS["2"], "refused"),
        (IMPOSTOR, "refused"),
        (IMPOSTOR, "refused"),
    ]
    reasons = [reason for *_, reason, _ in rows]
    assert LOOK_ALIKE not in reasons[1], "it is escaped"
    assert [
        word in reason
        for word, reason in zip(
            (
                "GET",
                "passes for",
                "end of file",
                "posix.system",
                f"no client has registered from {IMPOSTOR}",
                "not on the roster",
            ),
            reasons,
            strict=True,
        )
    ] == [True] * 6
    assert rows[2][3] == eventful.cut_off_at
    assert sql(eventful.db, "SELECT prefix, SUM(connections) FROM v1_summaries") == [(NETWORK, eventful.scanned)]


def test_the_resumption_changed_what_it_was_told_to(eventful: Facts) -> None:
    overrides = sql(
        eventful.db,
        "SELECT detail ->> 'setting', detail ->> 'before', detail ->> 'now'"
        " FROM v1_operator_events WHERE kind = 'override'",
    )
    assert sorted(overrides) == sorted((key, BEFORE[key], AFTER[key]) for key in BEFORE)
    assert sql(eventful.db, "SELECT name, status, rounds_committed FROM v1_runs ORDER BY started_at") == [
        ("pilot", "completed", 1),
        ("night", "completed", 5),
    ]
