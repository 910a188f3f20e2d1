"""How often what died is started again: a rule without a clock."""

import pytest

from flserver.process.nodes.restarts import BURST, INTERVAL, RestartBudget


def test_one_that_died_is_started_again_until_too_many_do_within_an_interval() -> None:
    budget = RestartBudget(2, burst=3, interval=10.0)
    assert [budget.allows(died) for died in (0.0, 9.0, 10.0, 10.5, 18.9, 20.5)] == [
        True,
        True,
        True,  # of the last three the first died ten seconds ago
        False,
        False,
        True,
    ]


@pytest.mark.parametrize("gap", [INTERVAL / (BURST - 1) - 0.001, INTERVAL / (BURST - 1)])
def test_the_usual_budget_is_five_within_a_minute(gap: float) -> None:
    budget = RestartBudget(1)
    allowed = [budget.allows(1000.0 + number * gap) for number in range(BURST)]
    assert allowed == [True] * (BURST - 1) + [gap * (BURST - 1) >= INTERVAL]


def test_a_slot_that_is_given_up_stays_empty() -> None:
    budget = RestartBudget(3)
    assert [budget.give_up() for _ in range(3)] == [False, False, True]
