"""What the nodes of a run served, as /metrics has it and as SQL has it; and which of them serve."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from flserver import events as e
from flserver.observers.metrics import Metrics
from flserver.observers.tally import RunFacts
from flserver.store.reader import Reader
from tests import facts
from tests.observers.names import NODE_COUNTERS, NODE_GAUGES
from tests.observers.observed_and_recorded import record
from tests.observers.observed_run import RUN_STARTED, SERVER_STARTED, committed
from tests.observers.samples import samples

LOST = e.LostUpdate(update_id=3, client_id="3", round=1, attempt=1)


def served(connection: int, node: str) -> list[e.Event]:
    """A connection, and the model that came and the answer that went on it."""
    return [
        facts.opened(connection, node=node),
        facts.received(connection, "<MODEL>", connection_id=connection, bytes=1000 + connection),
        facts.sent(100 + connection, connection_id=connection, header="<SUCCESS>", attempt=None, bytes=50),
    ]


@pytest.fixture
def told() -> list[e.Event]:
    """Two nodes, of which the second goes with an update; a third comes in its place. One connection is open still."""
    ended = (facts.answered("1", 1, 0.5), facts.answered("2", 2, 0.5), facts.answered("3"))
    return [
        RUN_STARTED,
        SERVER_STARTED,
        facts.node_started(1),
        facts.node_started(2),
        facts.attempt(0),
        committed(0),
        facts.attempt(1, 1, ("1", "2", "3")),
        *served(1, "node-1"),
        *served(2, "node-2"),
        *served(3, "node-2"),
        facts.opened(4),  # an older server's, of which nobody says who accepted it
        facts.received(4, connection_id=4),
        facts.strangers_summed(node="node-2"),
        facts.update(1, connection_id=1, message_id=1),
        facts.update(2, "2", connection_id=2, message_id=2),
        facts.update(3, "3", connection_id=3, message_id=3),
        facts.update(5, "3", answers=None, decision="duplicate", connection_id=3, message_id=3),
        facts.closed(3),
        facts.node_lost(node="node-2", slot=2, updates=(LOST,)),
        facts.closed(2),
        facts.node_started(3, 2),
        committed(1, ended),
        facts.node_ended(node="node-3", slot=2),
    ]


def of_nodes(metrics: Metrics) -> Mapping[tuple[str, ...], float]:
    """The samples of the nodes that are not 0, by their name and their labels' values in the order of the labels."""
    names = {*NODE_COUNTERS, *NODE_GAUGES}
    return {
        (name, *(value for _, value in sorted(labels))): number
        for (name, labels), number in samples(metrics).items()
        if name in names and number
    }


def test_each_number_of_a_node_is_what_sql_says(tmp_path: Path, told: list[e.Event]) -> None:
    reader, metrics = record(tmp_path, told)
    wanted: dict[tuple[str, ...], float] = {}
    for name, query in (
        ("nodes_lost_total", "SELECT slot, SUM(lost) FROM v1_nodes GROUP BY 1"),
        ("node_connections_total", "SELECT slot, SUM(connections) FROM v1_nodes GROUP BY 1"),
        ("node_message_bytes_total", "SELECT 'in', slot, SUM(bytes_in) FROM v1_nodes GROUP BY 2"),
        ("node_message_bytes_total", "SELECT 'out', slot, SUM(bytes_out) FROM v1_nodes GROUP BY 2"),
        ("node_up", "SELECT slot, SUM(ended_at IS NULL) FROM v1_nodes GROUP BY 1"),
        (
            "node_open_connections",
            "SELECT slot, COUNT(*) FROM v1_connections JOIN v1_nodes USING (run_id, node) "
            "WHERE closed_at IS NULL GROUP BY 1",
        ),
        (
            "node_updates_total",
            "SELECT decision, slot, COUNT(*) FROM v1_updates JOIN v1_connections USING (run_id, connection_id) "
            "JOIN v1_nodes USING (run_id, node) GROUP BY 1, 2",
        ),
    ):
        _, rows = reader.query(query)
        wanted |= {(name, *map(str, labels)): number for *labels, number in rows if number}
    assert of_nodes(metrics) == wanted
    assert wanted["node_updates_total", "lost", "2"] == wanted["nodes_lost_total", "2"] == 1
    assert wanted["node_connections_total", "2"] == 2 + facts.strangers_summed().connections


def test_a_server_that_goes_on_counts_on_and_has_no_node_yet(
    tmp_path: Path, told: list[e.Event], run_facts: RunFacts
) -> None:
    reader, observing = record(tmp_path, told)
    resumed = Metrics({})
    resumed.restore(run_facts, reader.totals("r1"), None)
    lasting = {key: number for key, number in of_nodes(observing).items() if key[0] in NODE_COUNTERS}
    assert of_nodes(resumed) == lasting
    resumed.observe(facts.node_started(4, 1))
    assert of_nodes(resumed) == lasting | {("node_up", "1"): 1}


def test_a_run_without_nodes_has_no_sample_of_one(run_events: list[e.Event]) -> None:
    metrics = Metrics({})
    for event in run_events:
        metrics.observe(event)
    assert of_nodes(metrics) == {}
    assert not {name for name, _ in samples(metrics)} & {*NODE_COUNTERS, *NODE_GAUGES}


def test_the_sums_say_where_they_were_counted(tmp_path: Path, told: list[e.Event]) -> None:
    reader: Reader = record(tmp_path, told)[0]
    _, rows = reader.query("SELECT node, connections, updates, updates_lost, lost, end_reason FROM v1_nodes ORDER BY 1")
    strangers = facts.strangers_summed().connections
    assert rows == [
        ("node-1", 1, 1, 0, None, None),
        ("node-2", 2 + strangers, 3, 1, 1, "its process ended"),
        ("node-3", 0, 0, 0, 0, "finished"),
    ]
