"""What is on record of an ingest node that is gone: its updates that counted are lost, and nobody's afterwards."""

from pathlib import Path

import pytest

from flserver.errors import StoreError
from flserver.events import LostUpdate
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


def test_a_connection_says_which_node_had_it(database: Path, ask: Ask) -> None:
    story.write(database, [*story.started(), facts.opened(1, node="node-2"), facts.opened(2), attempt(0, 1, ())])
    assert ask("SELECT connection_id, node FROM v1_connections ORDER BY 1") == [(1, "node-2"), (2, None)]
