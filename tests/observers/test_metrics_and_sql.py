"""Promise 7: /metrics says what SQL says, while a run is recorded and when another process goes on with it."""

import math
from pathlib import Path

import pytest

from flserver import events as e
from flserver.observers.metrics import Metrics
from flserver.observers.tally import RunFacts
from flserver.process.first_entries import last_round
from flserver.store.reader import Reader
from tests import facts
from tests.observers.observed_and_recorded import record
from tests.observers.observed_run import RUN_STARTED, SERVER_STARTED, committed
from tests.observers.samples import lasting_samples, samples, value


@pytest.fixture
def recorded(tmp_path: Path, run_events: list[e.Event]) -> tuple[Reader, Metrics]:
    """The run in a database, and what observed it there."""
    first, *others = run_events
    return record(tmp_path, [first, SERVER_STARTED, *others])


def test_what_was_observed_is_what_sql_restores(recorded: tuple[Reader, Metrics], run_facts: RunFacts) -> None:
    reader, observing = recorded
    resumed = Metrics({})
    resumed.restore(run_facts, reader.totals("r1"), last_round(reader, "r1"))
    assert lasting_samples(resumed) == lasting_samples(observing)


@pytest.mark.parametrize("measured", [math.nan, math.inf, -math.inf, None])
def test_a_model_that_diverged_is_told_from_one_that_was_not_measured(
    tmp_path: Path, run_facts: RunFacts, measured: float | None
) -> None:
    own = () if measured is None else (facts.round_metric(1, "loss", measured, "evaluate"),)
    others = facts.round_metric(0, "loss", math.inf, "clients")
    ended = committed(1, loss=measured, accuracy=None, metrics=(*own, others))
    reader, observing = record(tmp_path, [RUN_STARTED, SERVER_STARTED, facts.attempt(1), ended])
    resumed = Metrics({})
    resumed.restore(run_facts, reader.totals("r1"), last_round(reader, "r1"))
    for metrics in (resumed, observing):
        assert repr(value(metrics, "model_loss")) == repr(measured)
        assert value(metrics, "model_accuracy_ratio") is None
        assert value(metrics, "clients_loss") == math.inf


@pytest.mark.parametrize(
    ("name", "query"),
    [
        ("rounds_total", "SELECT status, COUNT(*) FROM v1_rounds GROUP BY 1"),
        ("updates_total", "SELECT decision, COUNT(*) FROM v1_updates GROUP BY 1"),
        (
            "connections_total",
            "SELECT purpose, SUM(n) FROM (SELECT purpose, COUNT(*) AS n FROM v1_connections WHERE closed_at IS NOT NULL"
            " GROUP BY 1 UNION ALL SELECT purpose, connections FROM v1_summaries) GROUP BY 1",
        ),
        ("audit_events_total", "SELECT COUNT(*) FROM v1_events"),
        ("round_duration_seconds_sum", "SELECT SUM(seconds) FROM v1_rounds"),
        ("client_update_duration_seconds_count", "SELECT COUNT(seconds) FROM v1_client_rounds"),
    ],
)
def test_counters_equal_the_views(recorded: tuple[Reader, Metrics], name: str, query: str) -> None:
    reader, observing = recorded
    _, rows = reader.query(query)
    wanted = {tuple(map(str, labels)): count for *labels, count in rows}
    found = {tuple(v for _, v in labels): n for (sample, labels), n in samples(observing).items() if sample == name}
    assert {labels: number for labels, number in found.items() if number} == wanted
