"""The join window, and what visitors can make of it, with the clock as a number."""

import pytest

from flserver.errors import IdentityRefused, RegistrationRefused
from flserver.identity.peer import Peer
from flserver.identity.roster import Member, Roster
from flserver.identity.rules import Identity
from flserver.rounds import Registration, Rounds
from flserver.rounds.join_window import Stage
from flserver.rounds.waiting import waiting
from tests.rounds.policies import policy

PEER = Peer(host="10.0.0.1", port=1)
ELSEWHERE = Peer(host="10.0.0.9", port=1)


def window(**changed: object) -> Rounds:
    return Rounds(policy(**changed), {}, None, Identity())


def join(rounds: Rounds, client_id: str, now: float = 0.0, peer: Peer = PEER) -> Registration:
    registration = rounds.register(client_id, 10, peer, now)
    rounds.confirm_registration(registration)
    return registration


def refused(rounds: Rounds, client_id: str, now: float) -> bool:
    with pytest.raises(RegistrationRefused, match="already started the training"):
        rounds.register(client_id, 10, PEER, now)
    return True


class TestItsEnd:
    def test_who_begins_to_register_after_it_neither_delays_it_nor_takes_part(self) -> None:
        rounds = window()
        join(rounds, "1")
        before = rounds.register("2", 10, PEER, 9.9)
        assert not rounds.window_over(10.0), "one that began before it is waited for"
        assert refused(rounds, "3", 10.1)
        rounds.confirm_registration(before)
        assert rounds.window_over(10.2)

    def test_registrations_that_keep_coming_do_not_keep_it_open(self) -> None:
        rounds, now, taken = window(), 0.0, 0
        join(rounds, "honest")
        while not rounds.window_over(now):
            now += 0.1
            try:  # one is always half registered
                rounds.register(f"{now:.1f}", 10, PEER, now)
                if taken:
                    rounds.confirm_registration(Registration(f"{now - 0.1:.1f}", 1, False))
                taken += 1
            except RegistrationRefused:
                rounds.confirm_registration(Registration(f"{now - 0.1:.1f}", 1, False))
            assert now < 11
        assert taken >= 99

    def test_past_its_time_it_admits_until_enough_are_there(self) -> None:
        rounds = window(min_clients=2)
        join(rounds, "1")
        assert not rounds.window_over(50.0)
        half = rounds.register("2", 10, PEER, 51.0)
        assert not rounds.window_over(51.0)
        join(rounds, "3", 52.0)
        assert not rounds.window_over(52.0), "2 began before the third made it enough"
        rounds.leave(half)
        assert rounds.window_over(53.0)
        assert rounds.close_window() == 2

    def test_it_opens_again_where_too_few_are_left(self) -> None:
        rounds = window(min_clients=2)
        join(rounds, "1")
        second = join(rounds, "2")
        half = rounds.register("3", 10, PEER, 5.0)
        assert not rounds.window_over(11.0)
        rounds.leave(second)
        rounds.leave(half)
        assert not rounds.window_over(12.0)
        join(rounds, "4", 13.0)
        assert rounds.window_over(13.0)

    def test_one_of_before_a_resume_that_comes_after_it_does_not_delay_it(self) -> None:
        rounds = Rounds(policy(), {"a": (10, 1)}, 1, Identity())
        join(rounds, "b")
        half = rounds.register("c", 10, PEER, 1.0)
        assert not rounds.window_over(10.0)
        rounds.register("a", 10, PEER, 10.5)
        rounds.confirm_registration(half)
        assert rounds.window_over(11.0)


class TestASlidingOne:
    def test_has_an_outer_bound(self) -> None:
        rounds, now, number = window(join_window="sliding"), 0.0, 0
        while not rounds.window_over(now):
            join(rounds, str(number), now)
            number, now = number + 1, now + 5.0
            assert now < 200
        assert now == 100.0

    def test_counts_the_bound_from_who_is_there(self) -> None:
        rounds = window(join_window="sliding")
        rounds.leave(join(rounds, "visitor"))
        join(rounds, "1", now=95.0)
        assert not rounds.window_over(104.0)
        assert rounds.window_over(105.0)


class TestAVisitor:
    """Somebody who registers and leaves before the window closes."""

    @pytest.mark.parametrize("way", ["fixed", "sliding"])
    def test_does_not_open_it(self, way: str) -> None:
        rounds = window(join_window=way)
        rounds.leave(join(rounds, "visitor"))
        assert rounds.window.closes_at is None
        join(rounds, "1", now=100.0)
        assert not rounds.window_over(109.0), "the others have their ten seconds"
        join(rounds, "2", now=109.0)
        assert rounds.window_over(120.0)

    def test_that_came_first_does_not_shorten_it(self) -> None:
        rounds = window()
        visitor = join(rounds, "visitor", now=0.0)
        join(rounds, "1", now=9.0)
        rounds.leave(visitor)
        assert not rounds.window_over(10.0)
        assert rounds.window_over(19.0)

    def test_does_not_settle_the_quorum(self) -> None:
        rounds = window()
        join(rounds, "1")
        rounds.leave(join(rounds, "visitor"))
        assert rounds.close_window() == 1

    def test_is_a_newcomer_afterwards_so_that_a_single_sites_model_goes_to_nobody_who_left(self) -> None:
        rounds = window()
        join(rounds, "1")
        rounds.leave(join(rounds, "visitor"))
        rounds.close_window()
        assert refused(rounds, "visitor", 11.0)
        assert list(rounds.participants) == ["1"]

    def test_is_a_newcomer_after_a_resume_too_and_its_registrations_are_counted_on(self) -> None:
        known = {"1": (10, 1), "visitor": (10, 4)}
        rounds = Rounds(policy(), known, 1, Identity(), visitors=["visitor"])
        join(rounds, "1")
        rounds.leave(join(rounds, "visitor"))
        assert rounds.participants["visitor"].registration == 5
        rounds.close_window()
        assert refused(rounds, "visitor", 11.0)

    def test_keeps_no_id_from_the_one_it_belongs_to(self) -> None:
        rounds = window()
        rounds.leave(join(rounds, "1", peer=ELSEWHERE))
        assert join(rounds, "1", peer=PEER).number == 2
        with pytest.raises(IdentityRefused, match="another address"):
            join(rounds, "1", peer=ELSEWHERE)

    def test_who_leaves_after_it_takes_part_and_may_come_back(self) -> None:
        rounds = window()
        registration = join(rounds, "1")
        join(rounds, "2")
        rounds.close_window()
        rounds.leave(registration)
        assert join(rounds, "1").rejoined


def test_with_a_roster_it_is_over_when_all_are_in() -> None:
    identity = Identity(roster=Roster([Member(client_id=client_id) for client_id in "12"]))
    rounds = Rounds(policy(), {}, None, identity)
    join(rounds, "1")
    half = rounds.register("2", 10, PEER, 1.0)
    assert not rounds.window_over(1.0)
    rounds.confirm_registration(half)
    assert rounds.window_over(2.0)


def test_where_nobody_else_can_come_later_it_stays_open_for_as_many_as_were_settled_before() -> None:
    """Of a child of several sites: with one alone in it, no round would ever have its quorum."""
    rounds = Rounds(policy(time_to_wait=10.0), {}, 2, Identity())
    join(rounds, "a")
    assert not rounds.window_over(20.0)
    assert rounds.window_stage(20.0) == Stage(short=1)
    join(rounds, "b", 21.0)
    assert rounds.window_over(21.0)
    resumed = Rounds(policy(time_to_wait=10.0), {"a": (10, 1), "b": (10, 1)}, 2, Identity())
    join(resumed, "a")
    assert resumed.window_over(20.0), "the other one may come back"


def test_how_long_it_stays_open_is_told_while_it_does() -> None:
    rounds = window(min_clients=2)
    assert waiting(rounds).closes_in(0.0) is None, "nobody is there"
    join(rounds, "1", now=5.0)
    assert waiting(rounds).closes_in(6.0) == 9.0
    assert waiting(rounds).closes_in(15.0) is None, "it is past its end, and open for one more"
    join(rounds, "2", now=15.0)
    rounds.close_window()
    assert waiting(rounds).closes_in(6.0) is None
