"""An observed run's own numbers, and a server that is well."""

from collections.abc import Sequence
from typing import Any

from flserver import events as e
from flserver.observers.health import Health
from tests import facts

COMMITTED_AT = "2026-01-31T09:00:05.250000Z"
RUN_STARTED = facts.run_started("r1", "first", 10)
SERVER_STARTED = facts.server_started()
WELL = Health(
    run_id="r1",
    state="running",
    round=3,
    deadline=None,
    awaited="updates",
    answered=2,
    missing=3,
    seconds_left=3590.5,
    writer_alive=True,
    accepting=True,
    sequence=17,
    digest="sha256:22",
    queue_length=2,
)


def registered(client_id: str, registration: int = 1) -> e.ClientRegistered:
    return facts.registered(client_id, registration=registration, data_size=1400)


def committed(round: int, outcomes: Sequence[e.ClientOutcome] = (), **more: Any) -> e.RoundCommitted:
    values = {
        "at": COMMITTED_AT,
        "seconds": 2.3125,
        "broadcast_seconds": 0.25,
        "wait_seconds": 1.5,
        "aggregate_seconds": 0.125,
        "checkpoint_seconds": 0.0625,
        "model_digest": "sha256:11",
        "checkpoint": f"round-{round:06d}-11.safetensors",
        "checkpoint_bytes": 31_500,
        "loss": 0.412,
        "accuracy": 0.887,
    }
    return facts.committed(round, outcomes=outcomes, **(values | more))
