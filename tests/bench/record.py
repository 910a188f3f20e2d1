"""What the record of a round costs: the events of small rounds through a writer, without a server around it.

    python -m tests.bench.record --clients 500 --rounds 4 --dir FOLDER [--db postgresql://USER@HOST/DATABASE]

Prints one JSON line: microseconds of the writer's thread an event (processor time, so that what else the machine does
hardly matters), events and milliseconds a transaction, and bytes of database an update.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from flserver import events as e
from flserver.events import Event
from flserver.settings.places import Place, place_of
from flserver.store.database import at
from flserver.store.schema import ensure_head
from flserver.store.writer import Writer

RUN = "20260131-090000-abcdef"
MODEL_BYTES = 30_000


def record(clients: int, rounds: int, directory: Path, place: Place | None = None) -> dict[str, object]:
    """The figures of ``rounds`` rounds of ``clients`` trainers, each with an update, on record at ``place``."""
    failures: list[BaseException] = []
    batches: list[int] = []
    seconds: list[float] = []
    processor: list[float] = []  # of the writer's thread, after each transaction

    def committed(batch: Sequence[Event]) -> None:
        batches.append(len(batch))
        processor.append(time.thread_time())

    with tempfile.TemporaryDirectory(dir=directory, prefix="bench-") as folder:
        db = place or Path(folder) / "bench.sqlite"
        ensure_head(db)
        writer = Writer(db, run_id=RUN, process_id=1)
        writer.start(on_committed=committed, on_commit_seconds=seconds.append, on_failure=failures.append)
        for event in _begin(clients):
            writer.emit(event)
        writer.flush()
        first, before = len(batches), at(db).bytes()
        for number in range(1, rounds + 1):
            for event in _round(number, clients):
                writer.emit(event)
            writer.flush()
        writer.close()
        grown = at(db).bytes() - before
    if failures:
        raise failures[0]
    events = sum(batches[first:])
    return {
        "clients": clients,
        "rounds": rounds,
        "events": events,
        "writer_us_an_event": round((processor[-1] - processor[first - 1]) / events * 1e6, 1),
        "ms_a_commit": round(1000 * statistics.fmean(seconds[first:]), 2),
        "events_per_commit": round(events / len(batches[first:]), 1),
        "database_bytes_an_update": round(grown / (clients * rounds)),
    }


def _begin(clients: int) -> Iterator[Event]:
    yield e.RunStarted(
        run_id=RUN, name="bench", num_rounds=9, model="m", strategy="fedavg", seed=1, config={}, parent_run_id=None,
        parent_round=None,
    )  # fmt: skip
    yield e.AttemptStarted(
        round=0, attempt=1, process_id=1, clients=(), not_sent=(), deadline_at=None, base_digest=None
    )  # fmt: skip
    yield _committed(0, ())
    for number in range(clients):
        yield e.ConnectionOpened(connection_id=number, peer_host="127.0.0.1", peer_port=40_000, transport="tcp")
        yield e.ClientRegistered(
            client_id=str(1001 + number), registration=1, connection_id=number, identity="claimed", data_size=100,
            info={}, rejoined=False, metadata={"id": 1001 + number, "data_size": 100},
        )  # fmt: skip


def _committed(number: int, outcomes: tuple[e.ClientOutcome, ...]) -> Event:
    return e.RoundCommitted(
        round=number, attempt=1, clients=len(outcomes), seconds=0.1, broadcast_seconds=0.03, wait_seconds=0.04,
        aggregate_seconds=0.001, evaluate_seconds=None, checkpoint_seconds=0.01, data_size=100 * len(outcomes),
        model_digest="sha256:" + "ab" * 32, checkpoint=f"{RUN}/round-{number:06}-0123456789abcdef.safetensors",
        checkpoint_bytes=MODEL_BYTES, loss=None, accuracy=None, metrics=(), outcomes=outcomes,
    )  # fmt: skip


def _round(number: int, clients: int) -> Iterator[Event]:
    """What a server emits in one round: five events a trainer, in the order in which they come."""
    names = [str(1001 + client) for client in range(clients)]
    first = number * clients  # every id of this round is this one or above
    yield e.AttemptStarted(
        round=number, attempt=1, process_id=1, clients=tuple(names), not_sent=(), base_digest="sha256:" + "ab" * 32,
        deadline_at="2026-01-31T10:00:00.000000Z",
    )  # fmt: skip
    for client, name in enumerate(names):
        yield e.MessageSent(
            message_id=2 * (first + client), connection_id=client, client_id=name, round=number, attempt=1,
            header="<MODEL>", encoding="pickle", bytes=MODEL_BYTES, digest="blake3:" + "cd" * 32,
            seconds=0.000123456789, sent_at="2026-01-31T09:00:01.000000Z", outcome="ok", reason=None,
        )  # fmt: skip
    for client, name in enumerate(names):
        connection = first + client + clients
        yield e.ConnectionOpened(
            connection_id=connection, peer_host="127.0.0.1", peer_port=40_000 + client, transport="tcp"
        )
        yield e.MessageReceived(
            message_id=2 * (first + client) + 1, connection_id=connection, client_id=name, round=number,
            header="<MODEL>", encoding="pickle", bytes=MODEL_BYTES, digest="blake3:" + "ef" * 32,
            seconds=0.000123456789, outcome="ok", reason=None,
        )  # fmt: skip
        yield e.UpdateReceived(
            update_id=first + client, message_id=2 * (first + client) + 1, connection_id=connection, client_id=name,
            answers_round=number, answers_attempt=1, arrived_round=number, decision=None, reason=None,
            update_digest="blake3:" + "01" * 32, data_size=100, bytes=MODEL_BYTES, wait_seconds=0.012345678901,
            upload_seconds=0.00123456789, update_norm=0.123456789012, parameters_norm=0.123456789012,
            buffers_norm=0.0, counted_size=100,
        )  # fmt: skip
        yield e.ConnectionClosed(
            connection_id=connection, purpose="upload", client_id=name, reason="done", bytes_in=MODEL_BYTES + 8,
            bytes_out=0,
        )  # fmt: skip
    outcomes = [
        e.ClientOutcome(
            client_id=name, participation="answered", update_id=first + client, weight=1 / clients, seconds=0.0123456789
        )
        for client, name in enumerate(names)
    ]
    yield _committed(number, tuple(outcomes))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--clients", type=int, required=True)
    parser.add_argument("--rounds", type=int, required=True)
    parser.add_argument("--dir", type=Path, required=True)
    parser.add_argument("--db", type=place_of)
    given = parser.parse_args()
    print(json.dumps(record(given.clients, given.rounds, given.dir, given.db)))


if __name__ == "__main__":
    main()
