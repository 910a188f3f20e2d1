"""What a round says of its nodes' events is held against the events: one more, less, or changed shows."""

import json
from typing import Any

import pytest

from flserver.audit.nodes import check_nodes
from flserver.events import Event, NodeHead
from flserver.store.node_chain import NodeChain
from flserver.store.payloads import to_payload
from tests import facts

ONE = [facts.opened(1, node="one"), facts.received(1, connection_id=1), facts.closed(1, "upload", "1", "done")]
TWO = [facts.opened(2, node="two"), facts.registered("2", 2)]
SERVERS = [facts.opened(3), facts.received(2, connection_id=3)]


def head(node: str, *given: Event) -> NodeHead:
    chain = NodeChain()
    for event in given:
        chain.add(type(event).__name__, to_payload(event))
    count, digest = chain.now
    return NodeHead(node=node, events=count, head=digest)


def found(*told: Event | None, covered: bool = False) -> list[tuple[bool | None, str]]:
    return list(check_nodes(map(row, told), covered=covered))


def row(event: Event | None) -> dict[str, Any]:
    """As it stands in the record; None: a message that was purged."""
    kind = "MessageReceived" if event is None else type(event).__name__
    return {"process_id": 1, "type": kind, "payload": None if event is None else to_payload(event)}


def test_rounds_name_the_events_of_nodes_whatever_came_between_and_after() -> None:
    first = facts.committed(1, nodes=(head("one", *ONE[:2]), head("two", TWO[0])))
    second = facts.committed(2, nodes=(head("one", *ONE), head("two", *TWO)))
    told = [ONE[0], SERVERS[0], TWO[0], ONE[1], SERVERS[1], TWO[1], first, ONE[2], second]
    assert found(*told) == [(True, "the events of nodes are those that rounds name, 4 times")]
    assert found(*ONE, *TWO) == []


@pytest.mark.parametrize(
    "told",
    [
        [ONE[0], ONE[2]],
        [ONE[0], ONE[2], ONE[1]],
        [ONE[0], facts.received(1, connection_id=1, bytes=7), ONE[2]],
        [*ONE[:2], facts.received(9, connection_id=1), ONE[2]],
    ],
    ids=["one is missing", "in another order", "another one", "one more"],
)
def test_events_that_are_not_those_of_the_node_show(told: list[Event]) -> None:
    ((holds, line),) = found(*told, facts.committed(1, nodes=(head("one", *ONE),)))
    assert holds is False
    assert line.startswith("round 1, attempt 1: one gave 3 events, ")


def test_one_round_that_does_not_hold_does_not_spoil_the_next_one() -> None:
    wrong = facts.committed(1, nodes=(NodeHead(node="one", events=2, head="sha256:00"),))
    chain = NodeChain(2, "sha256:00")
    chain.add(type(ONE[2]).__name__, to_payload(ONE[2]))
    right = facts.committed(2, nodes=(NodeHead(node="one", events=3, head=chain.now[1]),))
    assert [holds for holds, _ in found(*ONE[:2], wrong, ONE[2], right)] == [False]


BELIEVED = "what rounds name of nodes' events is believed 1 times: payloads are gone"
UNREAD = (
    "1 events of nodes, or of rounds that name some, cannot be read: "
    "what rounds of their server process name is not known from there on"
)


@pytest.mark.parametrize(("covered", "holds"), [(True, True), (False, None)])
def test_where_payloads_were_purged_a_round_is_believed(covered: bool, holds: bool | None) -> None:
    told = [ONE[0], None, ONE[2], facts.committed(1, nodes=(head("one", *ONE),))]
    assert found(*told, covered=covered) == [(holds, BELIEVED)]


@pytest.mark.parametrize("payload", ["{", "[]", '{"node": ["one"]}', '{"connection_id": {}}', "[" * 100_000])
def test_a_payload_that_was_changed_to_what_no_event_is_fails_nothing(payload: str) -> None:
    rows = [row(ONE[0]), row(ONE[1]) | {"payload": payload}, row(facts.committed(1, nodes=(head("one", *ONE),)))]
    assert list(check_nodes(rows, covered=True)) == [(None, UNREAD)], "whatever was purged"


@pytest.mark.parametrize("later", [True, False])
def test_a_round_that_names_a_node_in_part_is_not_known_whatever_was_purged(later: bool) -> None:
    named = row(facts.committed(1, nodes=(head("one", *ONE),)))
    values = json.loads(named["payload"])
    del values["nodes"][0]["head"]
    rows = [row(one) for one in (*ONE, None)] + [named | {"payload": json.dumps(values)}]
    rows += [row(facts.committed(2, nodes=(head("one", *ONE),)))] * later
    assert list(check_nodes(rows, covered=True)) == [(None, UNREAD)]


GIVEN = [facts.opened(4, node="one"), facts.update(7, "a", connection_id=4), facts.closed(4, "upload", "a", "done")]
NOT_NAMED = "round 2, attempt 1: of one it names no events in which it gave the updates 7, which are in the model"


@pytest.mark.parametrize("named", [0, 1])
def test_a_round_that_names_not_what_came_by_nodes_shows(named: int) -> None:
    before = facts.committed(1, nodes=(head("one", *GIVEN[:1]),))
    nodes = (head("one", *GIVEN[:1]),) * named  # as the round before did, or none
    counted = facts.committed(2, outcomes=(facts.answered("a", 7, 1.0),), nodes=nodes)
    assert found(GIVEN[0], before, *GIVEN[1:], counted)[0] == (False, NOT_NAMED)
    for aborts in ([facts.aborted(2)], []):
        others = facts.committed(2, outcomes=(facts.answered("b", 8 if aborts else None, 1.0),), nodes=nodes)
        assert [holds for holds, _ in found(GIVEN[0], before, *GIVEN[1:], *aborts, others)] == [True]


def test_what_a_node_gives_while_a_round_names_the_nodes_is_the_next_ones_to_name() -> None:
    first = facts.committed(2, outcomes=(facts.answered("a", 7, 1.0),), nodes=(head("one", *GIVEN[:2]),))
    second = facts.committed(3, nodes=(head("one", *GIVEN),))
    assert found(*GIVEN, first, second) == [(True, "the events of nodes are those that rounds name, 2 times")]


def test_a_round_without_nodes_has_none_to_name() -> None:
    opened, update = facts.opened(4), facts.update(7, "a", connection_id=4)
    assert found(opened, update, facts.committed(2, outcomes=(facts.answered("a", 7, 1.0),))) == []


def test_a_round_is_told_once_what_is_wrong_with_what_it_names() -> None:
    wrong = facts.committed(
        2, outcomes=(facts.answered("a", 7, 1.0),), nodes=(NodeHead(node="one", events=0, head="sha256:00"),)
    )
    assert len(found(*GIVEN, wrong)) == 1


def test_of_what_was_purged_it_cannot_be_told_whether_a_round_should_have_named_it() -> None:
    assert found(*GIVEN[:2], None, facts.committed(2, outcomes=(facts.answered("a", 7, 1.0),))) == []
