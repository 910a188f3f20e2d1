"""The old address of FedAvg: strategies of users' own import it from here."""

from flserver.aggregation.strategies.fedavg import FedAvg

__all__ = ["FedAvg"]
