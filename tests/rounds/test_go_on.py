"""A round that goes on without the rest, with the clock as a number."""

import pytest

from flserver.errors import UsageError
from flserver.settings import Enough, server_settings
from tests.rounds.steps import answer, started


def go_on(text: str, **more: object) -> Enough:
    found = server_settings({"go_on_at": text, **more}).rounds.go_on_at
    assert found is not None
    return found


def test_who_is_rejected_has_answered() -> None:
    """Else one client that sends nonsense would have the others wait for the slow one until the deadline."""
    rounds, _ = started("abcd", go_on_at=go_on("3"), grace=5.0)
    answer(rounds, "a", at=2.0)
    answer(rounds, "b", at=3.0, rejection="non_finite: w")
    answer(rounds, "c", at=4.0)
    assert rounds.ends_at == 9.0


def test_a_suspect_is_not_among_those_that_are_enough() -> None:
    """Else two that nobody will count could end a round before the honest have answered."""
    rounds, _ = started("abcde", go_on_at=go_on("2"))
    for client in "ab":
        answer(rounds, client)
    attempt = rounds.attempt
    assert attempt is not None
    assert rounds.attempt_over(2.0)
    attempt.seats["b"].suspicion = "norm: too far"
    assert not rounds.attempt_over(2.0)


def test_a_grace_after_so_many_have_answered_it_is_over() -> None:
    rounds, _ = started("abcd", go_on_at=go_on("2"), grace=5.0)
    answer(rounds, "a", at=2.0)
    assert rounds.ends_at == 101.0
    answer(rounds, "b", at=4.0)
    assert rounds.ends_at == 9.0
    answer(rounds, "c", at=6.0)
    assert not rounds.attempt_over(8.9), "it is counted from the second one on"
    assert rounds.attempt_over(9.0)
    ended = {result.seat.client_id: result.participation for result in rounds.end_attempt(9.0)}
    assert ended["d"] == "timed_out"
    assert rounds.participants["d"].standing == "owing"
    assert rounds.participants["d"].backoff.misses == 0, "the round was not held up"


def test_the_deadline_stays() -> None:
    rounds, _ = started("abc", go_on_at=go_on("2"), grace=500.0)
    for client in "ab":
        answer(rounds, client)
    assert rounds.ends_at == 101.0


def test_never_with_less_than_a_quorum() -> None:
    rounds, _ = started("abc", go_on_at=go_on("1"))
    answer(rounds, "a")
    assert not rounds.attempt_over(50.0), "two updates are needed"
    answer(rounds, "b")
    assert rounds.attempt_over(50.0)


def test_what_does_not_count_does_not_let_it_go_on() -> None:
    rounds, _ = started("abcd", go_on_at=go_on("2"))
    for client in "ab":
        answer(rounds, client, rejection="shape: w")
    assert not rounds.attempt_over(50.0)


@pytest.mark.parametrize(
    ("text", "invited", "enough"),
    [("3", 10, 3), ("0.7", 10, 7), (".5", 5, 3), ("1.0", 10, 10), ("0.001", 10, 1), ("07", 10, 7)],
)
def test_a_number_or_a_share_of_the_clients_invited(text: str, invited: int, enough: int) -> None:
    assert go_on(text).of(invited) == enough


@pytest.mark.parametrize("text", ["0", "0.0", "1.5", "-1", "80%", "many", "", "1e9", "2.0", "nan"])
def test_anything_else_is_a_usage_error(text: str) -> None:
    with pytest.raises(UsageError, match=r"neither a number of updates, such as 8, nor a share"):
        go_on(text)


def test_a_number_below_the_quorum_is_a_usage_error_and_so_is_a_grace_alone() -> None:
    with pytest.raises(UsageError, match="--go-on-at 2 is less than --min-updates 3"):
        go_on("2", min_updates=3)
    with pytest.raises(UsageError, match="--grace 5 needs --go-on-at"):
        server_settings({"grace": 5.0})
    assert server_settings({}).rounds.go_on_at is None
