"""What is on record of an ingest node that is gone: its updates that counted are lost, and nobody's afterwards."""

import itertools
from dataclasses import replace
from pathlib import Path

import pytest

from flserver.errors import StoreError
from flserver.events import ConnectionOpened, LostUpdate
from flserver.observers.tally import Tally
from flserver.record.questions import answer, question
from flserver.store.reader import Reader
from tests import facts
from tests.facts import answered, attempt, committed
from tests.store import story
from tests.store.conftest import Ask

LOST = LostUpdate(update_id=2, client_id="2", round=1, attempt=1)
UPLOADS = [*story.uploaded(1, "1", (1, 1)), *story.uploaded(2, "2", (1, 1))]


def test_a_lost_update_is_decided_and_its_round_goes_on_without_it(database: Path, ask: Ask) -> None:
    ends = [facts.node_lost(updates=(LOST,)), committed(1, outcomes=[answered("1", 1, 1.0), answered("2")])]
    story.write(database, [*story.ROUND_1, *UPLOADS, *ends])
    assert ask("SELECT client_id, decision, reason, weight FROM v1_updates ORDER BY 1") == [
        ("1", "accepted", None, 1.0),
        ("2", "lost", "node-1 is gone: its process ended", None),
    ]
    assert ask("SELECT client_id, participation, decision FROM v1_client_rounds WHERE round = 1 ORDER BY 1") == [
        ("1", "answered", "accepted"),
        ("2", "answered", "lost"),
    ]
    found = answer(Reader(database), question("run_at_a_glance"), None, {})
    ((*_, lost),) = found.rows
    assert (found.columns[-1], lost) == ("lost", 1), "the decisions add up to what came in"


def test_the_counts_say_what_sql_says(database: Path) -> None:
    ends = [facts.node_lost(updates=(LOST,)), committed(1, outcomes=[answered("1", 1, 1.0), answered("2")])]
    told = [*story.ROUND_1, *UPLOADS, *ends]
    tally = Tally()
    for event in told:
        tally.observe(event)
    story.write(database, told)
    totals = Reader(database).totals(facts.RUN)
    assert (
        {decision: n for decision, n in tally.updates.items() if n}
        == dict(totals.updates)
        == {
            "accepted": 1,
            "lost": 1,
        }
    )


@pytest.mark.parametrize(
    "events",
    [
        [facts.node_lost(updates=(LOST,))],
        [*UPLOADS, facts.node_lost(updates=(LOST, LOST))],
        [*UPLOADS, facts.node_lost(updates=(LOST,)), committed(1, outcomes=[answered("1", 1), answered("2", 2)])],
    ],
    ids=["one that never came", "one twice", "one that was averaged"],
)
def test_what_was_not_open_cannot_be_lost(database: Path, events: list[object]) -> None:
    with pytest.raises(StoreError):
        story.write(database, [*story.ROUND_1, *events])  # type: ignore[list-item]


NODES = "SELECT node, slot, lost, end_reason, connections, updates, updates_lost, bytes_in FROM v1_nodes ORDER BY 1"


def test_who_served_whom_and_which_went_is_on_record(database: Path, ask: Ask) -> None:
    first = [story.started(), [facts.node_started(1), facts.node_started(2)], story.registered("1", 1)]
    rounds = [facts.attempt(0), committed(0), attempt(1, 1, ("1", "2"))]
    uploads = [replace(event, node="node-2") if isinstance(event, ConnectionOpened) else event for event in UPLOADS[4:]]
    gone = facts.node_lost(updates=(LOST,), node="node-2", slot=2)
    ends = [facts.node_started(3, 2), committed(1, outcomes=[answered("1", 1, 1.0), answered("2")]), facts.node_ended()]
    story.write(database, [*itertools.chain(*first), *rounds, *UPLOADS[:4], *uploads, gone, *ends])
    assert ask(NODES) == [
        ("node-1", 1, 0, "finished", 0, 0, 0, 0),
        ("node-2", 2, 1, "its process ended", 1, 1, 1, 1008),
        ("node-3", 2, None, None, 0, 0, 0, 0),
    ]
    reader = Reader(database)
    assert reader.nodes_named(facts.RUN) == 3, "a server that goes on with the run gives other names"

    def asked(**values: str) -> list[tuple[object, ...]]:
        found = answer(reader, question("which_node_served"), None, values)
        places = [found.columns.index(name) for name in ("node", "lost", "client_id", "connections", "updates_lost")]
        return [tuple(row[place] for place in places) for row in found.rows]

    served = ("node-2", 1, "2", 1, 1)
    assert asked() == [("node-1", 0, None, 0, 0), served, ("node-3", None, None, 0, 0)]
    assert asked(client_id="2") == [served]
    assert asked(client_id="1") == []


def test_a_node_whose_name_ends_with_no_number_counts_for_none(database: Path) -> None:
    names = ("node-2", "node-x", "ingest", "node-²", "node-" + "9" * 5000)
    named = [replace(facts.node_started(number), node=name) for number, name in enumerate(names, 1)]
    story.write(database, [*story.started(), *named])
    assert Reader(database).nodes_named(facts.RUN) == 2


def test_a_node_whose_server_was_killed_ended_then_as_far_as_is_known(database: Path, ask: Ask) -> None:
    story.write(database, [*story.started(), facts.node_started(), facts.run_left_over()])
    ended = ask("SELECT lost, end_reason, ended_at IS NULL FROM v1_nodes")
    assert ended == [(None, "server stopped", 0)]


def test_a_loss_on_an_older_record_has_no_row_of_its_node(database: Path, ask: Ask) -> None:
    ends = [facts.node_lost(updates=(LOST,)), committed(1, outcomes=[answered("1", 1, 1.0), answered("2")])]
    story.write(database, [*story.ROUND_1, *UPLOADS, *ends])
    assert ask("SELECT COUNT(*) FROM v1_nodes") == [(0,)]


def test_a_connection_says_which_node_had_it(database: Path, ask: Ask) -> None:
    story.write(database, [*story.started(), facts.opened(1, node="node-2"), facts.opened(2), attempt(0, 1, ())])
    assert ask("SELECT connection_id, node FROM v1_connections ORDER BY 1") == [(1, "node-2"), (2, None)]
