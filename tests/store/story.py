"""The events of a small run in which everything happens once, as a server would emit them."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from flserver import events as e
from flserver.events import ClientMetric, ClientOutcome, Event, RoundMetric
from flserver.store.writer import Writer

RUN = "20260131-090000-abcdef"
LEFT = "20260201-090000-123456"


QUIET: dict[str, Callable[..., None]] = {
    "on_committed": lambda events: None,
    "on_commit_seconds": lambda seconds: None,
    "on_failure": lambda error: print(error),
}
"""What a writer is started with where nobody watches it."""


def started(run_id: str = RUN, process_id: int = 1, name: str = "night") -> list[Event]:
    return [
        e.RunStarted(
            run_id=run_id,
            name=name,
            num_rounds=2,
            model="neural_net_helper:NeuralNet",
            strategy="fedavg",
            seed=2**63 - 1,
            config={"num_rounds": 2, "round_timeout": 3600.0},
            parent_run_id=None,
            parent_round=None,
        ),
        e.ServerStarted(
            process_id=process_id,
            host="host",
            user="user",
            pid=4711,
            server_version="0.1.0",
            python_version="3.11",
            torch_version="2.14",
            overrides={},
            resumed_from_round=None,
        ),
    ]


def opened(connection_id: int) -> Event:
    return e.ConnectionOpened(connection_id=connection_id, peer_host="127.0.0.1", peer_port=40000, transport="tcp")


def identified(connection_id: int) -> Event:
    return e.PeerIdentified(
        connection_id=connection_id,
        peer_host="10.0.0.7",
        peer_port=40000,
        proxy_host="127.0.0.1",
        transport="tls",
        certificate_subject="commonName=1",
        certificate_fingerprint="sha256:cc",
    )


def registered(client: str, connection_id: int, registration: int = 1, data_size: int = 100) -> list[Event]:
    return [
        opened(connection_id),
        e.ClientRegistered(
            client_id=client,
            registration=registration,
            connection_id=connection_id,
            identity="claimed",
            data_size=data_size,
            info={"epochs": 8},
            rejoined=registration > 1,
        ),
    ]


def attempt(number: int, attempt: int, clients: Sequence[str], not_sent: Sequence[str] = ()) -> Event:
    return e.AttemptStarted(
        round=number,
        attempt=attempt,
        process_id=1,
        clients=tuple(clients),
        not_sent=tuple(not_sent),
        deadline_at="2026-01-31T10:00:00.000000Z" if number else None,
        base_digest=f"sha256:{number - 1}" if number else None,
    )


def sent(message_id: int, client: str, number: int, attempt: int, outcome: str = "ok") -> Event:
    return e.MessageSent(
        message_id=message_id,
        connection_id=int(client),
        client_id=client,
        round=number,
        attempt=attempt,
        header="<MODEL>",
        encoding="pickle",
        bytes=1008,
        digest="sha256:aa",
        seconds=0.25,
        sent_at="2026-01-31T09:00:01.000000Z",
        outcome=outcome,
        reason=None if outcome == "ok" else "reset",
    )


def uploaded(
    update_id: int,
    client: str,
    answers: tuple[int, int] | None,
    decision: str | None = None,
    reason: str | None = None,
    metrics: Sequence[ClientMetric] = (),
) -> list[Event]:
    """The upload's connection, message and update; their ids follow from ``update_id``."""
    upload = 100 + update_id
    number, tried = answers or (None, None)
    message: dict[str, Any] = {"message_id": upload, "connection_id": upload, "client_id": client}
    return [
        opened(upload),
        e.MessageReceived(
            **message,
            round=number,
            header="<MODEL>",
            encoding="pickle",
            bytes=1008,
            digest="sha256:bb",
            seconds=0.5,
            outcome="ok",
            reason=None,
        ),
        e.UpdateReceived(
            **message,
            update_id=update_id,
            answers_round=number,
            answers_attempt=tried,
            arrived_round=number,
            decision=decision,
            reason=reason,
            update_digest="blake3:cc",
            data_size=100,
            bytes=1008,
            wait_seconds=1.5,
            upload_seconds=0.5,
            update_norm=2.0,
            metrics=tuple(metrics),
        ),
        e.ConnectionClosed(
            connection_id=upload, purpose="upload", client_id=client, reason="done", bytes_in=1008, bytes_out=0
        ),
    ]


def committed(
    number: int,
    attempt: int = 1,
    outcomes: Sequence[ClientOutcome] = (),
    loss: float | None = None,
    accuracy: float | None = None,
    metrics: Sequence[RoundMetric] = (),
) -> Event:
    return e.RoundCommitted(
        round=number,
        attempt=attempt,
        seconds=4.0,
        broadcast_seconds=0.5,
        wait_seconds=3.0,
        aggregate_seconds=0.25,
        evaluate_seconds=None,
        checkpoint_seconds=0.125,
        data_size=200,
        model_digest=f"sha256:{number}",
        checkpoint=f"{RUN}/round-{number:06d}-00.safetensors",
        checkpoint_bytes=31400,
        loss=loss,
        accuracy=accuracy,
        metrics=tuple(metrics),
        outcomes=tuple(outcomes),
    )


def aborted(number: int, attempt: int, outcomes: Sequence[ClientOutcome]) -> Event:
    return e.AttemptAborted(
        round=number,
        attempt=attempt,
        reason="quorum",
        seconds=2.0,
        broadcast_seconds=0.5,
        wait_seconds=1.5,
        outcomes=tuple(outcomes),
    )


def answered(client: str, update_id: int | None = None, weight: float | None = None) -> ClientOutcome:
    return ClientOutcome(client_id=client, participation="answered", update_id=update_id, weight=weight, seconds=3.0)


def silent(client: str, participation: str = "timed_out") -> ClientOutcome:
    return ClientOutcome(client_id=client, participation=participation)


def whole_run() -> list[Event]:
    """Clients 1 to 3; round 1 misses its quorum once, client 3's answer to it is late, client 1 leaves and returns."""
    return [
        *started(),
        e.OperatorActed(kind="start", detail={"argv": ["flserver"]}),
        e.StateChanged(state="joining"),
        *registered("1", 1),
        identified(1),
        *registered("2", 2),
        *registered("3", 3),
        e.QuorumSettled(min_updates=2, absent=("4 (Lund)",)),
        attempt(0, 1, ()),
        committed(0, loss=2.3, accuracy=0.1, metrics=[RoundMetric(round=0, name="loss", value=2.3, source="server")]),
        attempt(1, 1, ("1", "2", "3")),
        sent(1, "1", 1, 1),
        sent(2, "2", 1, 1),
        sent(3, "3", 1, 1),
        *uploaded(1, "1", (1, 1), metrics=[ClientMetric(name="loss", measured_on="trained", value=0.7)]),
        *uploaded(2, "2", (1, 1), "rejected", "shape: fc1.weight is (1,)"),
        aborted(1, 1, [answered("1", 1), answered("2"), silent("3")]),
        attempt(1, 2, ("1", "2"), not_sent=("3",)),
        sent(4, "1", 1, 2),
        sent(5, "2", 1, 2),
        *uploaded(3, "3", (1, 1), "late"),
        *uploaded(
            4,
            "1",
            (1, 2),
            metrics=[
                ClientMetric(name="loss", measured_on="received", value=2.25),
                ClientMetric(name="loss", measured_on="trained", value=0.5),
                ClientMetric(name="accuracy", measured_on="trained", value=float("nan")),
                ClientMetric(name="seconds", measured_on="trained", value=float("inf")),
            ],
        ),
        *uploaded(5, "1", None, "duplicate"),
        *uploaded(6, "2", (1, 2)),
        committed(
            1,
            2,
            [answered("1", 4, 0.5), answered("2", 6, 0.5), silent("3", "not_sent")],
            loss=0.5,
            accuracy=0.9,
            metrics=[RoundMetric(round=0, name="loss", value=2.25, source="clients")],
        ),
        e.CheckpointDeleted(round=0, attempt=1, checkpoint="…"),
        e.ClientLeft(client_id="1", registration=1, connection_id=1, reason="reset"),
        e.ConnectionClosed(
            connection_id=1, purpose="register", client_id="1", reason="reset", bytes_in=80, bytes_out=2016
        ),
        *registered("1", 7, registration=2, data_size=150),
        opened(8),
        e.MessageReceived(
            message_id=6,
            connection_id=8,
            client_id=None,
            round=None,
            header="<\ud800>",
            encoding="unknown",
            bytes=8,
            digest=None,
            seconds=0.0,
            outcome="refused",
            reason="a length of 5 GB",
        ),
        e.ConnectionClosed(
            connection_id=8, purpose="unknown", client_id=None, reason="refused", bytes_in=8, bytes_out=0
        ),
        e.RunEnded(run_id=RUN, status="interrupted", final_digest="sha256:1"),
        e.RunResumed(run_id=RUN, from_round=1, num_rounds=3, config={"num_rounds": 3}),
        e.ServerStopped(process_id=1, exit_code=3),
    ]


def left_over() -> list[Event]:
    """A run whose server was killed in round 1: client 1 had answered, client 2 had not. Ids follow ``whole_run``'s."""
    return [
        *started(LEFT, 2, "killed"),
        *registered("1", 11),
        *registered("2", 12),
        attempt(0, 1, ()),
        committed(0),
        attempt(1, 1, ("1", "2")),
        *uploaded(7, "1", (1, 1)),
    ]


def write(path: Path, events: Iterable[Event], *, run_id: str = RUN, process_id: int = 1) -> None:
    """Record ``events`` as one server process does, from start to clean stop."""
    failures: list[BaseException] = []
    writer = Writer(path, run_id=run_id, process_id=process_id)
    writer.start(**(QUIET | {"on_failure": failures.append}))
    try:
        for event in events:
            writer.emit(event)
    finally:
        writer.close()
    if failures:
        raise failures[0]
