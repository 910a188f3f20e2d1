"""Whom a run waits for, with the clock as a number."""

import pytest

from flserver.identity.peer import Peer
from flserver.identity.roster import Member, Roster
from flserver.identity.rules import Identity
from flserver.rounds import Registration, Rounds
from flserver.rounds.waiting import SAID_AFTER, Reminder, Waiting, waiting
from tests.rounds.policies import policy

PEER = Peer(host="10.0.0.1", port=1)


def join(rounds: Rounds, client_id: str) -> Registration:
    registration = rounds.register(client_id, 10, PEER, 0.0)
    rounds.confirm_registration(registration)
    return registration


def running(clients: str) -> tuple[Rounds, dict[str, Registration]]:
    """A run of one-letter clients, in its first attempt."""
    rounds = Rounds(policy(), {}, None, Identity())
    registrations = {client: join(rounds, client) for client in clients}
    rounds.close_window()
    rounds.start(1, 1, 1.0)
    return rounds, registrations


def test_in_the_join_window_it_waits_for_as_many_as_are_needed() -> None:
    rounds = Rounds(policy(min_clients=3), {}, None, Identity())
    assert waiting(rounds) == Waiting(awaited="registrations", answered=0, missing=3)
    join(rounds, "1")
    rounds.register("2", 10, PEER, 0.0)
    there = Waiting(awaited="registrations", answered=1, missing=2, closes_at=10.0)
    assert waiting(rounds) == there, "half registered is not there"


def test_with_a_roster_it_knows_their_names() -> None:
    members = [Member(client_id=number, label=label) for number, label in (("1", "Umeå"), ("2", "Lund"), ("3", None))]
    rounds = Rounds(policy(min_clients=2), {}, None, Identity(roster=Roster(members)))
    join(rounds, "1")
    assert waiting(rounds).names == ("2 (Lund)", "3")


def test_in_a_round_it_waits_for_those_who_neither_answered_nor_left() -> None:
    rounds, registrations = running("abcd")
    for registration in registrations.values():
        sent = rounds.send_to(registration)
        assert sent is not None
        sent.handed_over_at = 1.0
    assert rounds.attempt is not None
    rounds.attempt.seats["b"].update_id = 1
    rounds.leave(registrations["c"])
    assert waiting(rounds) == Waiting(awaited="updates", answered=1, missing=2, names=("a", "d"))


def test_where_it_stops_it_waits_for_those_who_still_train() -> None:
    rounds, registrations = running("abc")
    for registration in registrations.values():
        sent = rounds.send_to(registration)
        assert sent is not None
        sent.handed_over_at = 1.0
    assert waiting(rounds, stopping=True).awaited == "updates", "the attempt may still end"
    rounds.leave(registrations["c"])
    rounds.end_attempt(stopped=True)
    assert waiting(rounds, stopping=True) == Waiting(awaited="updates", missing=2, names=("a", "b"))
    for client in "ab":
        rounds.leave(registrations[client])
    assert waiting(rounds, stopping=True) == Waiting()


def test_between_rounds_it_waits_for_a_quorum_to_come_back() -> None:
    rounds, registrations = running("abc")
    rounds.leave(registrations["a"])
    rounds.end_attempt()  # b and c miss its deadline
    assert waiting(rounds) == Waiting(awaited="participants", answered=0, missing=2, names=("a", "b", "c"))
    join(rounds, "a")
    assert waiting(rounds) == Waiting(awaited="participants", answered=1, missing=1, names=("b", "c"))


def test_while_a_round_is_made_it_waits_for_nobody() -> None:
    rounds, _ = running("abc")
    rounds.end_attempt(stopped=True)
    assert waiting(rounds) == Waiting()


def test_it_is_said_after_ten_seconds_a_minute_and_ever_less_often() -> None:
    reminder, said = Reminder(100.0), []
    for second in range(100, 100 + 4 * 3600 + 1):
        if reminder.due(float(second)):
            said.append(second - 100)
    assert said == [10, 60, 300, 900, 3600, 7200, 10800, 14400]
    assert said[: len(SAID_AFTER)] == list(SAID_AFTER)


@pytest.mark.parametrize(("now", "following"), [(109.0, 10), (161.0, 300), (100.0 + 9000, 10800)])
def test_what_was_to_be_said_meanwhile_is_said_once(now: float, following: int) -> None:
    reminder = Reminder(100.0)
    assert reminder.due(now) is (following > 10)
    assert not reminder.due(now)
    assert reminder.at == 100.0 + following
