"""Who holds rounds up sits out the next ones: the rules of it, and what attackers can make of them."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flserver.rounds import Registration
from flserver.rounds.backoff import FORGIVEN_BY, Backoff, sitting_out
from tests.examples import times
from tests.rounds.steps import answer, begin, join, started

Registrations = dict[str, Registration]


class Night:
    """A run of many rounds in which ``honest`` trainers answer in time, and ``hostile`` ones do as they like.

    A round that somebody holds up takes its whole time-out of 100 s, any other one takes 2 s.
    """

    def __init__(self, honest: str, hostile: str, **changed: object) -> None:
        self.rounds, self.registrations = started(honest + hostile, **changed)
        self.honest, self.hostile = honest, hostile
        self.round, self.now = 1, 1.0
        self.held_up: list[int] = []
        self.answered: list[int] = []

    @property
    def invited(self) -> set[str]:
        assert self.rounds.attempt is not None
        return set(self.rounds.attempt.seats)

    def play(self, rounds: int, hostile: Callable[["Night"], None], after: Callable[["Night"], None]) -> None:
        """``hostile`` acts in each round while the honest have answered, ``after`` between that and the next."""
        for _ in range(rounds):
            for client in self.honest:
                assert client in self.invited
                answer(self.rounds, client, at=self.now + 1)
            hostile(self)
            if held := not self.rounds.attempt_over(self.now + 2):
                self.held_up.append(self.round)
            self.now += 100 if held else 2
            assert self.rounds.attempt_over(self.now)
            self.answered.append(
                sum(result.participation == "answered" for result in self.rounds.end_attempt(self.now))
            )
            after(self)
            self.round, self.now = self.round + 1, self.now + 1
            begin(self.rounds, self.registrations, self.round, 1, self.now)

    def comes_back(self, client: str) -> None:
        self.rounds.leave(self.registrations[client])
        self.registrations[client] = join(self.rounds, client, self.now)


def nothing(night: Night) -> None:
    """Silence."""


def late(night: Night) -> None:
    """Whoever owes an answer gives it, after the deadline."""
    for client in night.hostile:
        if night.rounds.participants[client].standing == "owing":
            answer(night.rounds, client, at=night.now + 0.5)


def again(night: Night) -> None:
    """Whoever owes an answer leaves, and registers again."""
    for client in night.hostile:
        if night.rounds.participants[client].standing == "owing":
            night.comes_back(client)


@pytest.mark.parametrize("cure", [late, again])
@pytest.mark.parametrize("hostile", ["x", "xy"])
def test_who_misses_deadlines_holds_fewer_and_fewer_rounds_up(hostile: str, cure: Callable[[Night], None]) -> None:
    night = Night("ab", hostile)
    night.play(200, nothing, cure)
    assert night.held_up[0] == 1
    assert len(night.held_up) <= 8 * len(hostile), "of 200: 1, 3, 6, 11, 20, …"
    assert min(night.answered) == 2, "the honest are always there"


def test_who_answers_in_time_in_between_holds_up_one_round_of_eleven() -> None:
    """The cheapest way to be forgiven: two ids that take turns."""
    night = Night("ab", "xy")

    def when_forgiven(night: Night) -> None:
        for client in night.invited - set("ab"):
            backoff = night.rounds.participants[client].backoff
            if backoff.misses or (night.round + (client == "y")) % 2:
                answer(night.rounds, client, at=night.now + 1)

    night.play(220, when_forgiven, late)
    assert 0 < len(night.held_up) <= 2 * 220 / 11


def test_who_leaves_the_round_that_waits_for_it_alone_and_comes_back_holds_fewer_and_fewer_up() -> None:
    night, waited = Night("ab", "xy"), []

    def leave_at_last(night: Night) -> None:
        there = sorted(night.invited - set("ab"))
        if there:
            waited.append(night.round)  # until just before the deadline
        for client in there:
            night.comes_back(client)

    night.play(200, leave_at_last, nothing)
    assert night.held_up == []
    assert len(waited) <= 25


def test_a_connection_that_we_gave_up_is_a_miss_and_one_that_ended_is_none() -> None:
    for reason, misses in (("closed", 0), ("reset", 0), ("timeout", 1), ("protocol", 1)):
        rounds, registrations = started("abc")
        answer(rounds, "a")
        rounds.leave(registrations["c"], reason)  # type: ignore[arg-type]
        assert rounds.participants["c"].backoff.misses == misses, reason


def test_trainers_that_are_restarted_again_and_again_while_others_train_are_invited_to_every_round() -> None:
    rounds, registrations = started("abc")
    for round in range(2, 30):
        rounds.leave(registrations["c"])
        registrations["c"] = join(rounds, "c")
        for client in "ab":
            answer(rounds, client, at=round + 0.0)
        rounds.end_attempt(round + 0.5)
        begin(rounds, registrations, round, 1, round + 0.6)
        assert rounds.attempt is not None
        assert "c" in rounds.attempt.seats


def test_one_that_left_the_last_once_is_excused_and_after_answers_in_time_again() -> None:
    backoff = Backoff()
    for _ in range(5):
        backoff.left_last(1)
        assert backoff.misses == 0
        for _ in range(FORGIVEN_BY):
            backoff.answered()
    backoff.left_last(7)
    backoff.left_last(8)
    assert (backoff.misses, backoff.until) == (1, 10)


def test_it_is_invited_again_after_one_two_four_rounds() -> None:
    backoff, out = Backoff(), []
    for round in range(1, 13):
        if round < backoff.until:
            out.append(round)
        else:
            backoff.missed(round)
    assert out == [2, 4, 5, 7, 8, 9, 10, 12]
    assert str(backoff) == "it held up 4 rounds: invited again from round 20 on"


def test_answers_in_time_forgive_one_miss_after_the_other() -> None:
    backoff = Backoff()
    backoff.missed(1)
    backoff.missed(5)
    for _ in range(FORGIVEN_BY - 1):
        backoff.answered()
    assert backoff.misses == 2
    backoff.answered()
    assert backoff.misses == 1


def test_what_it_sits_out_is_on_record_with_the_reason() -> None:
    night = Night("ab", "x")
    night.play(1, nothing, late)
    assert night.rounds.attempt is not None
    assert night.rounds.attempt.not_sent == {"x": "it held up a round: invited again from round 3 on"}


def test_no_round_is_held_below_its_quorum() -> None:
    night = Night("a", "xyz", min_updates=2)
    rounds, registrations = night.rounds, night.registrations
    for client in "ay":
        answer(rounds, client, at=2.0)
    rounds.end_attempt(101.0)  # x and z miss it
    for client in "xz":
        answer(rounds, client, at=102.0)
    rounds.leave(registrations["y"])
    begin(rounds, registrations, 2, 1, 103.0)
    assert night.invited == {"a", "x", "z"}, "both have as few misses"


def test_a_round_that_is_tried_again_invites_all_who_are_there() -> None:
    night = Night("ab", "x")
    night.play(1, nothing, late)
    assert night.invited == {"a", "b"}
    answer(night.rounds, "a", at=night.now)
    night.rounds.leave(night.registrations["b"])
    night.rounds.end_attempt(night.now + 1)
    begin(night.rounds, night.registrations, night.round, 2, night.now + 2)
    assert night.invited == {"a", "x"}


def test_a_stop_and_a_round_that_goes_on_without_it_are_no_misses() -> None:
    rounds, _ = started("ab")
    rounds.end_attempt(500.0, stopped=True)
    assert rounds.participants["a"].backoff.misses == 0
    rounds.start(1, 2, 600.0)
    rounds.end_attempt(601.0)
    assert rounds.participants["a"].backoff.misses == 0
    rounds.start(1, 3, 700.0)


@times(0.5)
@given(st.dictionaries(st.sampled_from("abcdefgh"), st.integers(0, 6), max_size=8), st.integers(1, 9))
def test_so_many_are_invited_that_it_can_have_its_quorum_and_those_with_fewest_misses(
    misses: dict[str, int], quorum: int
) -> None:
    backoffs = {client: Backoff(misses=count, until=10 if count else 0) for client, count in misses.items()}
    out = sitting_out(backoffs, 5, quorum)
    invited = misses.keys() - out
    assert len(invited) >= min(quorum, len(misses))
    assert all(misses[client] for client in out)
    if out:
        assert max((misses[client] for client in invited), default=0) < min(misses[client] for client in out)
        needed = [client for client in invited if misses[client] < max(misses[one] for one in invited)]
        assert len(needed) < quorum or all(not misses[client] for client in invited)
