"""From updates to the next global model. Pure: no sockets, threads, clocks or SQL.

``strategy.py`` is what a strategy promises, ``fedavg.py`` the first one: a new one is one class in one file of its own.
"""

from flserver.aggregation.named import load_strategy
from flserver.aggregation.strategy import Strategy
from flserver.state import State

__all__ = ["State", "Strategy", "load_strategy"]
