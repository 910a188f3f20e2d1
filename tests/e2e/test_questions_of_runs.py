"""Every question about runs, rounds and models is answered with what happened in the eventful run."""

from collections import Counter, defaultdict
from pathlib import Path

import pytest

from tests import eventful_run as told
from tests.e2e.asked import ACCEPTED, Asked, weights


def test_aborted_attempts(asked: Asked) -> None:
    columns = ("round", "attempt", "reason", "answered", "silent", "made_by_attempt")
    assert asked.column("aborted_attempts", *columns) == [(4, 1, "server stopped", 1, 3, 2)]


def test_best_round(asked: Asked) -> None:
    (row,) = asked.rows("best_round")
    best = told.ACCURACY.index(max(told.ACCURACY))
    assert (row["round"], row["accuracy"], row["loss"]) == (best, told.ACCURACY[best], told.LOSS[best])
    assert (row["model_digest"], row["checkpoint"].rpartition("/")[2]) == (asked.digest(best), asked.file_of(best).name)


def test_chain_head(asked: Asked) -> None:
    (row,) = asked.rows("chain_head")
    verified = asked.reader.verify_chain()
    assert row["digest"] == verified.head
    assert (row["seq"], row["events"], row["purged"]) == (verified.events, verified.events, 0)


def test_changed_on_resume(asked: Asked) -> None:
    changes = asked.column("changed_on_resume", "setting", "before", "now", "actor", "reason")
    assert sorted(changes) == sorted((key, told.BEFORE[key], told.AFTER[key], *told.OPERATORS[2]) for key in told.AFTER)
    assert asked.rows("changed_on_resume", "pilot") == []


def test_got_worse(asked: Asked) -> None:
    rows = asked.rows("got_worse")
    assert {(r["round"], r["accuracy_before"], r["accuracy"], r["loss_before"], r["loss"]) for r in rows} == {
        (3, told.ACCURACY[2], told.ACCURACY[3], told.LOSS[2], told.LOSS[3])
    }
    assert [row["client_id"] for row in rows] == ["4", "1", "2"], "the furthest first"
    assert {row["client_id"]: row["weight"] for row in rows} == pytest.approx(weights(3))
    assert rows[0]["times_the_others"] == pytest.approx(told.FAR / told.STEP)
    assert {row["by"] for row in rows} == {"both"}


def test_learning_curve(asked: Asked) -> None:
    columns = ("round", "loss", "accuracy", "clients_loss", "updates_accepted", "data_size", "model_digest")
    sizes = {0: 0} | {n: sum(told.SIZES[c] for c in clients) for n, clients in ACCEPTED.items()}
    assert asked.column("learning_curve", *columns) == [
        (
            n,
            told.LOSS[n],
            told.ACCURACY[n],
            1.5 if n < 5 else None,
            len(ACCEPTED.get(n, "")),
            sizes[n],
            asked.digest(n),
        )
        for n in range(6)
    ]


def test_models_on_disk(asked: Asked) -> None:
    rows = asked.column("models_on_disk", "round", "model_digest", "checkpoint_bytes", "deleted_at")
    assert rows == [(n, asked.digest(n), asked.file_of(n).stat().st_size, None) for n in range(6)]


def test_operators(asked: Asked) -> None:
    acts = asked.column("operators", "kind", "actor", "reason")
    assert Counter(acts) == {
        ("start", *told.OPERATORS[1]): 1,
        ("resume", *told.OPERATORS[2]): 1,
        ("override", *told.OPERATORS[2]): len(told.AFTER),
    }


def test_run_at_a_glance(asked: Asked) -> None:
    (row,) = asked.rows("run_at_a_glance")
    decisions = Counter(upload.decision for upload in asked.facts.of())
    assert {decision: row[decision] for decision in ("accepted", "late", "duplicate", "rejected", "aborted")} == {
        **decisions
    }
    assert (row["rounds_committed"], row["aborted_attempts"], row["processes"], row["clients"]) == (5, 1, 2, 4)
    assert row["final_digest"] == asked.digest(5)


def test_runs_compared(asked: Asked) -> None:
    columns = ("name", "best_round", "best_accuracy", "best_loss", "rounds_committed", "clients", "min_clients")
    assert asked.column("runs_compared", *columns) == [
        ("night", 5, told.ACCURACY[5], told.LOSS[5], 5, 4, told.AFTER["min_clients"]),
        ("pilot", 1, told.PILOT_ACCURACY[1], told.PILOT_LOSS[1], 1, 2, 2),
    ]
    night, pilot = asked.rows("runs_compared")
    assert (night["parent_run_id"], night["parent_round"]) == (pilot["run_id"], 1)
    assert (night["last_accuracy"], night["last_loss"]) == (told.ACCURACY[-1], told.LOSS[-1])


def test_settings(asked: Asked) -> None:
    found = dict(asked.column("settings", "setting", "value"))
    assert {key: found[key] for key in told.AFTER} == told.AFTER
    assert found["evaluate"] == "scores:night"
    assert dict(asked.column("settings", "setting", "value", run="pilot"))["evaluate"] == "scores:pilot"


def test_settings_that_differ(asked: Asked) -> None:
    found = {row["setting"]: (row["value"], row["other_value"]) for row in asked.rows("settings_that_differ")}
    assert (found["evaluate"], found["num_rounds"]) == (("scores:night", "scores:pilot"), (5, 1))
    assert found["go_on_at"] == (told.AFTER["go_on_at"], None)
    assert "seed" not in found
    assert "time_to_wait" not in found, "that of the first process differed, not the one that was in force last"
    other = asked.rows("settings_that_differ", "pilot", other_run_id="night")
    assert {row["setting"]: (row["other_value"], row["value"]) for row in other} == found
    assert asked.rows("settings_that_differ", "pilot") == [], "there is none before it"


def test_signed_heads(asked: Asked) -> None:
    key = (Path(asked.facts.folder) / "key.pub").read_text().strip()
    rows = asked.rows("signed_heads")
    assert len(rows) >= 6, "one a round at least"
    assert {row["key"] for row in rows} == {key}
    assert [row["event_seq"] for row in rows] == [row["size"] + 1 for row in rows]
    assert asked.rows("signed_heads", "pilot") == []


def test_time_per_phase(asked: Asked) -> None:
    rows = asked.rows("time_per_phase")
    assert [(row["round"], row["attempt"]) for row in rows] == [(n, 2 if n == 4 else 1) for n in range(6)]
    phases = [f"{phase}_seconds" for phase in ("broadcast", "wait", "aggregate", "evaluate", "checkpoint", "other")]
    for row in rows:
        assert sum(row[phase] or 0 for phase in phases) == pytest.approx(row["seconds"])
    assert max(rows, key=lambda row: row["wait_seconds"] or 0)["round"] == 1, "the one in which 3 and 4 are slow"


def test_timeline(asked: Asked) -> None:
    rows = asked.column("timeline", "what", "round", "client_id")
    expected = [
        ("client registered", None, "3"),
        ("attempt 1 committed", 1, None),
        ("attempt 1 committed", 2, None),
        ("client left", None, "3"),
        ("client registered", None, "3"),
        ("attempt 1 committed", 3, None),
        ("attempt 1 aborted", 4, None),
        ("operator: resume", None, None),
        ("attempt 2 committed", 4, None),
        ("attempt 1 committed", 5, None),
    ]
    places = iter(rows)
    assert [each for each in expected if each in places] == expected, "in this order"


def test_told_that_differs(asked: Asked) -> None:
    (row,) = asked.rows("told_that_differs")
    sites = ", ".join(sorted(told.LABELS.values()))
    assert tuple(row.values()) == ("site", sites, None, len(told.LABELS), 0, len(told.LABELS), 0)
    assert asked.rows("told_that_differs", "pilot") == [], "there is none before it"
    (other,) = asked.rows("told_that_differs", "pilot", other_run_id="night")
    assert (other["value"], other["other_value"], other["other_clients"]) == (None, sites, len(told.LABELS))


def test_traffic_per_round(asked: Asked) -> None:
    models: dict[int, int] = defaultdict(int)
    for row in asked.rows("traffic_per_round"):
        if (row["direction"], row["header"], row["outcome"]) == ("out", "<MODEL>", "ok"):
            models[row["round"]] += row["messages"]
            assert row["bytes"] == row["messages"] * asked.facts.bytes_of_models
    assert models == {1: 4, 2: 4, 3: 4, 4: 4 + 3, 5: 2}


def test_where_a_model_comes_from(asked: Asked) -> None:
    rows = asked.column("where_a_model_comes_from", "name", "round", "model_digest", digest=asked.digest(5))
    way = [("night", n) for n in range(5, -1, -1)] + [("pilot", 1), ("pilot", 0)]
    assert rows == [(run, round, asked.digest(round, run)) for run, round in way]


def test_who_ran_a_round(asked: Asked) -> None:
    for round, processes in {3: [1], 4: [1, 2], 5: [2]}.items():
        rows = asked.rows("who_ran_a_round", round=round)
        assert [(row["actor"], row["reason"]) for row in rows] == [told.OPERATORS[process] for process in processes]
        assert [row["attempt"] for row in rows] == [1, 2][: len(rows)]
        assert rows[-1]["resumed_from_round"] == (None if round == 3 else 3)
    assert asked.column("who_ran_a_round", "round") == [5], "the last one"


def test_which_node_served(asked: Asked) -> None:
    assert asked.rows("which_node_served") == [], "the server served all by itself"
