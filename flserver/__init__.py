"""A federated-learning server for socket trainers, with every round in SQL, on disk and on /metrics."""

__version__ = "0.1.0"
