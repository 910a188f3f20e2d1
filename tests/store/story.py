"""The events of a small run in which everything happens once, as a server would emit them."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from flserver.events import ClientMetric, Event, HeadSigned, KeptUpdate
from flserver.store.appending import Signs, signs_nothing
from flserver.store.writer import Writer
from tests import facts
from tests.facts import RUN, aborted, answered, attempt, committed, opened, sent, silent

LEFT = "20260201-090000-123456"


QUIET: dict[str, Callable[..., None]] = {
    "on_committed": lambda events: None,
    "on_commit_seconds": lambda seconds: None,
    "on_failure": lambda error: print(error),
}
"""What a writer is started with where nobody watches it."""


def started(run_id: str = RUN, process_id: int = 1, name: str = "night") -> list[Event]:
    return [facts.run_started(run_id, name), facts.server_started(process_id)]


def registered(client: str, connection_id: int, registration: int = 1, data_size: int = 100) -> list[Event]:
    return [opened(connection_id), facts.registered(client, connection_id, registration, data_size)]


ROUND_1: list[Event] = [
    *started(),
    *registered("1", 1),
    *registered("2", 2),
    attempt(0, 1, ()),
    committed(0),
    attempt(1, 1, ("1", "2")),
]
"""A run of two clients, up to where its first round's models are on the way."""


def uploaded(
    update_id: int,
    client: str,
    answers: tuple[int, int] | None,
    decision: str | None = None,
    reason: str | None = None,
    metrics: Sequence[ClientMetric] = (),
    **more: Any,
) -> list[Event]:
    """The upload's connection, message and update, of which there may be ``more``; ids follow from ``update_id``."""
    upload = 100 + update_id
    number = answers and answers[0]
    peer: dict[str, Any] = {"connection_id": upload, "client_id": client}
    body: dict[str, Any] = {"bytes": 1008, "encoding": "pickle", "digest": "sha256:bb", "seconds": 0.5}
    decided: dict[str, Any] = {"answers": answers, "decision": decision, "reason": reason}
    return [
        opened(upload),
        facts.received(upload, "<MODEL>", round=number, **peer, **body),
        facts.update(update_id, **peer, **decided, message_id=upload, metrics=tuple(metrics), **more),
        facts.closed(upload, "upload", client, "done", bytes_in=1008),
    ]


def whole_run() -> list[Event]:
    """Clients 1 to 3; round 1 misses its quorum once, client 3's answer to it is late, client 1 leaves and returns."""
    return [
        *started(),
        facts.operator_acted(),
        facts.head_signed(),
        facts.state_changed(),
        *registered("1", 1),
        facts.identified(1),
        *registered("2", 2),
        *registered("3", 3),
        facts.quorum_settled(absent=("4 (Lund)",)),
        attempt(0, 1, ()),
        committed(0, loss=2.3, accuracy=0.1, metrics=(facts.round_metric(value=2.3),)),
        attempt(1, 1, ("1", "2", "3")),
        sent(1, "1", 1, 1),
        sent(2, "2", 1, 1),
        sent(3, "3", 1, 1),
        facts.waited(answered=0, missing=3, clients=("1", "2", "3")),
        *uploaded(1, "1", (1, 1), metrics=[facts.client_metric(value=0.7)]),
        *uploaded(2, "2", (1, 1)),
        facts.suspect_rejected(2, "2", reason="shape: fc1.weight is (1,)"),
        facts.suspects_count(),
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
                facts.client_metric("loss", 2.25, "received"),
                facts.client_metric("loss", 0.5),
                facts.client_metric("accuracy", float("nan")),
                facts.client_metric("seconds", float("inf")),
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
            metrics=(facts.round_metric(value=2.25, source="clients"),),
            kept=(KeptUpdate(update_id=4, path="…/a.safetensors"), KeptUpdate(update_id=6, path="…/b.safetensors")),
        ),
        facts.kept_updates_deleted(),
        facts.weight_concentrated(),
        facts.checkpoint_deleted(),
        facts.left("1", "reset"),
        facts.closed(1, "register", "1", "reset", bytes_in=80, bytes_out=2016),
        *registered("1", 7, registration=2, data_size=150),
        opened(8),
        facts.received(6, "<\ud800>", "refused", 8, connection_id=8, encoding="unknown", reason="a length of 5 GB"),
        facts.closed(8, reason="refused"),
        facts.strangers_summed(),
        facts.strangers_summed(2, 1, 60, 1, 0, 60, 80),
        facts.strangers_summed(7, 0, 0, 0, 0, 0, 0, "silent", "unknown", "other", None),
        facts.node_started(1),
        facts.node_started(2),
        facts.node_lost(updates=(), node="node-2", slot=2),
        facts.node_ended(),
        facts.node_lost(updates=()),
        facts.payloads_purged(sequences=(), rows=()),
        facts.run_ended("interrupted"),
        facts.run_resumed(config={"num_rounds": 3}),
        facts.server_stopped(3),
    ]


def sound_run() -> list[Event]:
    """The same without the signed head, which is not one of a real tree."""
    return [event for event in whole_run() if not isinstance(event, HeadSigned)]


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


def write(
    path: Path, events: Iterable[Event], *, run_id: str = RUN, process_id: int = 1, sign: Signs = signs_nothing
) -> None:
    """Record ``events`` as one server process does, from start to clean stop."""
    failures: list[BaseException] = []
    writer = Writer(path, run_id=run_id, process_id=process_id, sign=sign)
    writer.start(**(QUIET | {"on_failure": failures.append}))
    try:
        for event in events:
            writer.emit(event)
    finally:
        writer.close()
    if failures:
        raise failures[0]
