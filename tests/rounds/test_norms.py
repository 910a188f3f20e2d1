"""Which updates are too far from the model that was sent, and when that is certain."""

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flserver.aggregation.checks import Norms
from flserver.errors import UsageError
from flserver.rounds.norms import NormHistory, NormRule, settle
from flserver.rounds.seats import Attempt, Seat
from flserver.rounds.weights import Weight
from flserver.settings import MaxUpdateNorm
from flserver.settings.policies import server_settings

KNOWN = NormHistory(3, Norms(2.0, 50.0))

WEIGHT = Weight("one", 10)


def rule(limit: MaxUpdateNorm = "auto", history: NormHistory = KNOWN) -> NormRule:
    made = NormRule(limit)
    made.history = history
    return made


@pytest.mark.parametrize("norms", [Norms(1e19, 0.0), Norms(0.0, 1e30), Norms(math.inf, 0.0), Norms(8e17, 9e17)])
def test_what_nobody_trains_is_rejected_from_the_first_round_on(norms: Norms) -> None:
    assert (rule(history=NormHistory()).too_far(norms) or "").startswith("norm: the norm ")
    assert rule("off").too_far(norms) is None
    assert rule().too_far(Norms(9e17, 0.0)) is None


def test_a_number_is_held_against_the_whole_norm() -> None:
    assert rule(5.0).too_far(Norms(3.0, 4.0)) is None
    assert rule(4.9).too_far(Norms(3.0, 4.0)) == "norm: the norm 5 is more than 4.9, --max-update-norm"
    assert rule(4.9).suspicion(Norms(1e9, 0.0)) is None


@pytest.mark.parametrize(
    ("norms", "suspect"),
    [
        (Norms(1999.0, 0.0), False),
        (Norms(2001.0, 0.0), True),
        (Norms(0.0, 2001.0), False),
        (Norms(0.0, 50_001.0), True),
        (Norms(1.0, 49_999.0), False),
    ],
)
def test_a_thousand_times_the_furthest_so_far_is_suspect_each_by_its_own_history(norms: Norms, suspect: bool) -> None:
    assert (rule().suspicion(norms) is not None) == suspect
    assert rule(history=NormHistory(2, KNOWN.largest)).suspicion(norms) is None, "not before three rounds"
    assert rule("off").suspicion(norms) is None


def test_steps_of_nearly_nothing_count_as_one() -> None:
    tiny = NormHistory(9, Norms(1e-9, 0.0))
    assert rule(history=tiny).suspicion(Norms(999.0, 999.0)) is None
    assert rule(history=tiny).suspicion(Norms(1001.0, 0.0)) is not None


def test_the_history_is_of_rounds_with_accepted_updates() -> None:
    made = rule(history=NormHistory())
    made.committed([])
    made.committed(
        [Seat("a", 1, 1, WEIGHT, norms=Norms(3.0, 1.0)), Seat("b", 1, 1, WEIGHT, norms=Norms(2.0, math.inf))]
    )
    made.committed([Seat("a", 1, 1, WEIGHT, norms=Norms(0.5, 9.0)), Seat("b", 1, 1, WEIGHT)])
    assert made.history == NormHistory(2, Norms(3.0, 9.0))


def attempt_of(seats: list[Seat], *not_sent: str) -> Attempt:
    made = Attempt(5, 1, 0.0, 100.0, {seat.client_id: seat for seat in seats}, suspected=True)
    made.not_sent = dict.fromkeys(not_sent, "owes an answer")
    return made


def test_half_is_half_of_those_who_are_there_also_of_who_was_not_sent_the_model() -> None:
    """Else whoever keeps an honest client busy for a round has half of the next one."""
    seats = [seat(False, 1), seat(True, 2)]
    settle(attempt_of(seats, "slow"))
    assert [one.decision for one in seats] == [None, "rejected"]
    alone = [seat(False, 1), seat(True, 2)]
    settle(attempt_of(alone))
    assert [one.decision for one in alone] == [None, None]


def seat(suspect: bool, number: int) -> Seat:
    made = Seat(f"{number:02}", 10, 1, WEIGHT)
    made.update_id, made.suspicion = number, "norm: too far" if suspect else None
    return made


@given(st.lists(st.sampled_from(["honest", "suspect", "silent"]), min_size=1, max_size=7), st.randoms())
def test_who_came_first_decides_nothing_about_suspects(kinds: list[str], random: object) -> None:
    """Whatever the order, and however often it is asked: the answer at the end is the one that was certain before."""
    order = list(range(len(kinds)))
    random.shuffle(order)  # type: ignore[attr-defined]
    seats = [Seat(f"{i:02}", 10, 1, WEIGHT) for i in range(len(kinds))]
    attempt = attempt_of(seats)
    for number in order:
        if kinds[number] != "silent":
            answered = seat(kinds[number] == "suspect", number + 1)
            seats[number].update_id, seats[number].suspicion = answered.update_id, answered.suspicion
        early = [(s.settled, s.decision) for s in seats]
        settle(attempt)
        for (was_settled, decision), s in zip(early, seats, strict=True):
            assert not was_settled or (s.settled, s.decision) == (True, decision), "what is certain stays"
    attempt.over = True
    settle(attempt)
    suspects = kinds.count("suspect")
    for kind, s in zip(kinds, seats, strict=True):
        assert s.pending is False
        assert s.decision == ("rejected" if kind == "suspect" and 2 * suspects < len(kinds) else None)


def test_suspects_that_count_still_do_where_another_is_lost_with_its_node() -> None:
    """They are in the sum by then."""
    seats = [*(seat(True, number) for number in (1, 2, 3)), Seat("04", 10, 1, WEIGHT), Seat("05", 10, 1, WEIGHT)]
    attempt = attempt_of(seats)
    settle(attempt)
    for lost in seats[:2]:
        lost.lose()
    seats[3].update_id, seats[4].update_id, seats[4].suspicion = 4, 5, "norm: too far"
    attempt.over = True
    settle(attempt)
    assert [one.decision for one in seats] == ["lost", "lost", None, None, None], "and who comes later, as they do"


def test_it_is_certain_as_soon_as_it_can_be() -> None:
    for clients, suspects in itertools.product(range(1, 8), range(4)):
        seats = [Seat(f"{i}", 10, 1, WEIGHT) for i in range(clients)]
        for s in seats[:suspects]:
            s.update_id, s.suspicion = 1, "norm: too far"
        attempt = attempt_of(seats)
        settle(attempt)
        settled = any(s.settled for s in seats)
        assert settled == (suspects > 0 and 2 * min(suspects, clients) >= clients), (clients, suspects)
        for s in seats[suspects:]:
            s.update_id = 2
        settle(attempt)
        assert not any(s.pending for s in seats)


@pytest.mark.parametrize("text", ["", "none", "-1", "0", "nan", "inf", "1e400"])
def test_what_is_no_bound_is_a_usage_error(text: str) -> None:
    with pytest.raises(UsageError, match=r"--max-update-norm .*: neither auto nor off, nor a number above 0"):
        server_settings({"max_update_norm": text})


def test_a_bound_is_a_word_or_a_number() -> None:
    bounds = [server_settings({"max_update_norm": text}).rounds.max_update_norm for text in ("auto", "off", "2.5")]
    assert bounds == ["auto", "off", 2.5]
