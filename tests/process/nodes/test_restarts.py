"""How often what died is started again: a rule without a clock."""

import pytest

from flserver.process.nodes.restarts import BURST, INTERVAL, RestartBudget


def test_one_that_died_is_started_again_until_too_many_do_within_an_interval() -> None:
    budget, gap = RestartBudget(2), INTERVAL / (BURST - 1)
    seldom = [budget.allows(1, number * gap) for number in range(2 * BURST)]
    assert all(seldom), "of the last five the first died a minute ago"
    last = (2 * BURST - 1) * gap
    assert not budget.allows(1, last + gap / 2)
    assert budget.allows(1, last + 3 * INTERVAL)


@pytest.mark.parametrize("gap", [INTERVAL / (BURST - 1) - 0.001, INTERVAL / (BURST - 1)])
def test_the_budget_is_five_within_a_minute(gap: float) -> None:
    budget = RestartBudget(1)
    allowed = [budget.allows(1, 1000.0 + number * gap) for number in range(BURST)]
    assert (BURST, INTERVAL) == (5, 60.0)
    assert allowed == [True] * (BURST - 1) + [gap * (BURST - 1) >= INTERVAL]


def test_those_of_a_machine_that_is_gone_come_again_all() -> None:
    """Each slot has its own budget; one that goes on dying stays empty."""
    slots = range(1, 2 * BURST)
    budget = RestartBudget(len(slots))
    assert all(budget.allows(slot, 7.0) for slot in slots)
    assert [budget.allows(3, 8.0) for _ in range(BURST - 1)] == [True] * (BURST - 2) + [False]
    assert budget.allows(4, 9.0)


def test_a_slot_that_is_given_up_stays_empty() -> None:
    budget = RestartBudget(3)
    assert [budget.give_up() for _ in range(3)] == [False, False, True]
