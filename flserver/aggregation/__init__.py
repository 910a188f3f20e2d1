"""From updates to the next global model. Pure: no sockets, threads, clocks or SQL.

``strategy.py`` is what a strategy promises, ``strategies/`` has those that come with the server: a new one is one class
in one file of its own.
"""

from flserver.aggregation.strategies.by_name import load_strategy
from flserver.aggregation.strategies.fedavg import FedAvg
from flserver.aggregation.strategy import Strategy
from flserver.models.state import State

__all__ = ["FedAvg", "State", "Strategy", "load_strategy"]
