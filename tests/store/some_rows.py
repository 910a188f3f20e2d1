"""Rows to write, of whichever database."""

from typing import Any

METRIC = {"run_id": "r", "round": 1, "name": "loss", "source": "server", "value": 0.5}
RUN = {"name": "\ud800", "status": "running", "started_at": "t", "num_rounds": 1, "model": "é", "strategy": "s"}


def runs(count: int) -> list[dict[str, Any]]:
    """So many runs, ``r0`` first."""
    return [RUN | {"run_id": f"r{n}", "seed": n, "config": {"n": n}, "event_seq": n} for n in range(count)]
