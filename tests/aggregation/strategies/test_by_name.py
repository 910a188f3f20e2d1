"""Strategies by their names."""

from flserver.aggregation.strategies.by_name import STRATEGIES
from flserver.settings import STRATEGIES as KNOWN


def test_the_settings_know_every_strategy_without_torch() -> None:
    assert tuple(STRATEGIES) == KNOWN
