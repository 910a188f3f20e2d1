"""Events in few words."""

from typing import Any

from flserver import events as e

COMMITTED_AT = "2026-01-31T09:00:05.250000Z"


def received(message_id: int, header: str | None, outcome: str, size: int, **more: Any) -> e.MessageReceived:
    values: dict[str, Any] = {
        "message_id": message_id,
        "connection_id": 1,
        "client_id": None,
        "round": None,
        "header": header,
        "encoding": "json",
        "bytes": size,
        "digest": None,
        "seconds": 0.01,
        "outcome": outcome,
        "reason": None if outcome == "ok" else "it broke a limit",
    }
    return e.MessageReceived(**(values | more))


def sent(message_id: int, header: str, outcome: str, size: int) -> e.MessageSent:
    return e.MessageSent(
        message_id=message_id,
        connection_id=1,
        client_id="1",
        round=1,
        header=header,
        encoding="pickle",
        bytes=size,
        digest=None,
        seconds=0.02,
        outcome=outcome,
        reason=None,
    )


def update(
    update_id: int,
    decision: str | None,
    reason: str | None = None,
    *,
    client_id: str = "1",
    answers_round: int | None = 1,
) -> e.UpdateReceived:
    return e.UpdateReceived(
        update_id=update_id,
        message_id=update_id,
        connection_id=4,
        client_id=client_id,
        answers_round=answers_round,
        answers_attempt=answers_round and 1,
        arrived_round=1,
        decision=decision,
        reason=reason,
        update_digest="sha256:00",
        data_size=1400,
        bytes=1000,
        wait_seconds=1.0,
        upload_seconds=0.5,
        update_norm=0.1,
    )


def opened(connection_id: int) -> e.ConnectionOpened:
    return e.ConnectionOpened(connection_id=connection_id, peer_host="192.0.2.7", peer_port=40001, transport="tcp")


def closed(connection_id: int, purpose: str) -> e.ConnectionClosed:
    return e.ConnectionClosed(
        connection_id=connection_id, purpose=purpose, client_id=None, reason="closed", bytes_in=1, bytes_out=2
    )


def registered(client_id: str, registration: int = 1, rejoined: bool = False) -> e.ClientRegistered:
    return e.ClientRegistered(
        client_id=client_id,
        registration=registration,
        connection_id=1,
        identity="claimed",
        data_size=1400,
        info={},
        rejoined=rejoined,
    )


def left(client_id: str, reason: str, registration: int = 1) -> e.ClientLeft:
    return e.ClientLeft(client_id=client_id, registration=registration, connection_id=1, reason=reason)


def started(round_number: int, clients: tuple[str, ...] = (), attempt: int = 1, deadline: str | None = None) -> e.Event:
    return e.AttemptStarted(
        at="2026-01-31T09:00:00.000000Z",
        round=round_number,
        attempt=attempt,
        process_id=1,
        clients=clients,
        not_sent=(),
        deadline_at=deadline,
        base_digest=None,
    )


def committed(round_number: int, outcomes: tuple[e.ClientOutcome, ...] = (), **more: Any) -> e.RoundCommitted:
    values: dict[str, Any] = {
        "at": COMMITTED_AT,
        "round": round_number,
        "attempt": 1,
        "seconds": 2.3125,
        "broadcast_seconds": 0.25,
        "wait_seconds": 1.5,
        "aggregate_seconds": 0.125,
        "evaluate_seconds": None,
        "checkpoint_seconds": 0.0625,
        "data_size": 2800,
        "model_digest": "sha256:11",
        "checkpoint": f"round-{round_number:06d}-11.safetensors",
        "checkpoint_bytes": 31_500,
        "loss": 0.412,
        "accuracy": 0.887,
        "metrics": (),
        "outcomes": outcomes,
    }
    return e.RoundCommitted(**(values | more))


def aborted(outcomes: tuple[e.ClientOutcome, ...], reason: str = "quorum") -> e.AttemptAborted:
    return e.AttemptAborted(
        round=2, attempt=1, reason=reason, seconds=8.0, broadcast_seconds=0.5, wait_seconds=7.5, outcomes=outcomes
    )


RUN_STARTED = e.RunStarted(
    run_id="r1",
    name="first",
    num_rounds=10,
    model="neural_net_helper:NeuralNet",
    strategy="fedavg",
    seed=0,
    config={},
    parent_run_id=None,
    parent_round=None,
)
SERVER_STARTED = e.ServerStarted(
    process_id=1,
    host="here",
    user="somebody",
    pid=42,
    server_version="0.1.0",
    python_version="3.11.2",
    torch_version="2.4.0",
    overrides={},
    resumed_from_round=None,
)
