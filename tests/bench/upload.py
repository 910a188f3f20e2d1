"""What a small upload costs the server, part by part: whole sessions on one thread, without a server around them.

    python -m tests.bench.upload --clients 200 --rounds 10 --dir FOLDER

Prints one JSON line, in microseconds of processor time an upload: ``sending_us`` is the model's way to one trainer,
``accepting_us`` from accept to the session, ``session_us`` the whole of ``Session.go_on``, ``ending_us`` a trainer's
share in the round's end, ``writer_us`` the record's. ``parts`` says where the session's time goes, each part
without those in it; they are found in a second pass, as the clock's own calls cost time too.

On one thread nobody waits for the interpreter, and nothing of the trainers' is counted: so it is the same from one
run to the next, and one can see what a microsecond less does.
"""

import argparse
import contextlib
import json
import math
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import torch

from flserver import events
from flserver.aggregation import kernel
from flserver.aggregation.strategies.fedavg import FedAvg
from flserver.clock import Deadline, monotonic
from flserver.events import Event
from flserver.events.bus import Bus
from flserver.identity.peer import Peer
from flserver.identity.rules import Identity
from flserver.models.architectures import wire_module
from flserver.models.checkpoint import CheckpointStore
from flserver.models.state import state_of
from flserver.network import session, transport, upload
from flserver.network.channel import Channel
from flserver.network.context import Context
from flserver.network.decoding import Decoding
from flserver.network.memory import ReceiveMemory
from flserver.network.preamble import Preamble
from flserver.network.record import ConnectionRecord
from flserver.network.session import Session
from flserver.network.strangers import Strangers
from flserver.observers.metrics import Metrics
from flserver.process.resources import first_limits, limits_of, settle_garbage
from flserver.rounds import Rounds
from flserver.rounds.broadcast import BroadcastBuffers
from flserver.rounds.committer import Committer
from flserver.rounds.endings import Farewell
from flserver.rounds.exchange import Exchange
from flserver.rounds.folding import Folding
from flserver.rounds.model import CurrentModel
from flserver.rounds.updates import EndedAttempt
from flserver.settings.policies import server_settings
from flserver.store import writer
from flserver.store.schema import ensure_head
from flserver.store.writer import Writer
from flserver.wire.template import Template
from tests.bench.answers import FIRST_ID, Answer, registration
from tests.bench.models import FACTORIES
from tests.bench.wire import receive_exactly, receive_length, send_frame

RUN = "20260131-090000-abcdef"
PATIENCE = 60.0  # seconds, for a trainer to be let in
CLIENTS = 90  # with whose events of a round the writer waits for the round's end

PARTS: Sequence[tuple[str, object, str]] = (
    ("the session", Session, "go_on"),
    ("receiving", session, "receive_frame"),
    ("receiving: the system", Channel, "receive_into"),
    ("reading", session, "read_message"),
    ("whose it may be", Exchange, "expect_upload"),
    ("whose it may be", Exchange, "not_asked"),
    ("whose it may be", Exchange, "check_upload"),
    ("digest of the tensors", upload, "state_digest"),
    ("held against the model", upload, "fit"),
    ("norms", upload, "inspect"),
    ("deciding", Folding, "offer"),
    ("adding", Committer, "reserve"),
    ("folded", Folding, "confirm"),
    ("events made", ConnectionRecord, "opened"),
    ("events made", ConnectionRecord, "update"),
    ("events made", ConnectionRecord, "closed"),
    ("events as JSON", writer, "to_payload"),
    ("events queued", Writer, "emit"),
    ("closing: the system", Channel, "close"),
)
"""What is told apart, by a function or a method of each."""


class Clock:
    """Processor time of this thread by part, each without what is called in it and has a part of its own."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._running: list[str] = []
        self._since = 0.0

    def _turn(self) -> None:
        now = time.thread_time()
        if self._running:
            name = self._running[-1]
            self.seconds[name] = self.seconds.get(name, 0.0) + now - self._since
        self._since = now

    def timed(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def in_its_part(*given: Any, **named: Any) -> Any:
            self._turn()
            self._running.append(name)
            try:
                return call(*given, **named)
            finally:
                self._turn()
                self._running.pop()

        return in_its_part

    def figures(self, uploads: int) -> dict[str, float]:
        """Microseconds an upload."""
        return {part: round(seconds / uploads * 1e6, 1) for part, seconds in self.seconds.items()}

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Take the time of all parts."""
        kept = [(owner, name, vars(owner)[name]) for _, owner, name in PARTS]
        for (part, owner, name), (_, _, call) in zip(PARTS, kept, strict=True):
            setattr(owner, name, self.timed(part, call))
        try:
            yield
        finally:
            for owner, name, call in kept:
                setattr(owner, name, call)


class Trainer:
    """A client that has registered: its first connection, which the main thread reads where the clock stands still."""

    def __init__(self, address: tuple[str, int], client_id: int) -> None:
        self.client_id = client_id
        self.connection = socket.create_connection(address)
        send_frame(self.connection, registration(client_id))

    def registered(self) -> None:
        assert json.loads(self.receive())["header"] == "<SUCCESS>"

    def receive(self) -> bytes:
        body = bytearray(receive_length(self.connection))
        receive_exactly(self.connection, memoryview(body))
        return bytes(body)


class Served:
    """The parts of a server that a session goes through, with a real record, and ``clients`` trainers."""

    def __init__(self, clients: int, folder: Path) -> None:
        self.clients = clients
        policies = server_settings({"db": str(folder / "bench.sqlite"), "min_updates": clients, "insecure": True})
        module = wire_module(FACTORIES["0.03"]())
        self.state, template = state_of(module), Template.of({"header": "<MODEL>", "model": module})
        self._answer = Answer(module)
        ensure_head(folder / "bench.sqlite")
        self.failures: list[BaseException] = []
        self.written, self.record_seconds = 0, 0.0
        self.recorder = self._record(folder / "bench.sqlite")
        identity = Identity()
        self._rounds = Rounds(policies.rounds, {}, None, identity)
        self.exchange = Exchange(self._rounds, CurrentModel(-1, self.state, None))
        limits = first_limits(policies.network)
        memory = ReceiveMemory(policies.network.receive_memory, limits.usual, folder)
        self.buffers, strategy = BroadcastBuffers(template), FedAvg()
        strategy.scratch = memory.scratch
        checkpoints = CheckpointStore(folder / "models", RUN)
        checkpoints.prepare()
        self.committer = Committer(
            process_id=1,
            recorder=self.recorder,
            strategy=strategy,
            evaluator=None,
            checkpoints=checkpoints,
            keep=0,
            meanwhile=self.buffers.render,
        )
        self.context = Context(
            run_id=RUN,
            goodbye="finished",
            exchange=self.exchange,
            folding=Folding(self.exchange),
            recorder=self.recorder,
            strangers=Strangers(self.recorder, policies.network.strangers_per_minute),
            memory=memory,
            decoding=Decoding(memory, limits.weight),
            limits=limits,
            preamble=Preamble(tls=None, proxies=(), seconds=10.0),
            identity=identity,
            tied={},
            buffers=(),
            accept_dtypes=policies.network.accept_dtypes,
            message_ids=count(1),
            update_ids=count(1),
            known=threading.Event(),
        )
        self.context.folding.committer = self.committer
        self.context.learn(limits_of(policies.network, template, self.state, len(self.state)), {}, ())
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=clients)
        transport.tune(self._listener, policies.network.peer_timeout)
        self.address = self._listener.getsockname()
        self._connection_ids = count(1)
        self._trainers: list[Trainer] = []
        self._threads: list[threading.Thread] = []
        self.seconds = {"sending": 0.0, "accepting": 0.0, "session": 0.0, "ending": 0.0}

    def _record(self, db: Path) -> Writer:
        """A writer that begins to write when it is told to, so that it takes nothing from those who emit."""
        metrics, bus = Metrics({}), Bus()
        bus.subscribe(metrics)

        def committed(batch: Sequence[Event]) -> None:
            bus.publish(batch)
            self.written += len(batch)
            self.record_seconds = time.thread_time()

        record = Writer(db, run_id=RUN, process_id=1)
        record.start(on_committed=committed, on_commit_seconds=metrics.commit_took, on_failure=self.failures.append)
        return record

    def begin(self) -> None:
        """Let the clients register, and make round 0."""
        started = events.RunStarted(
            run_id=RUN, name="bench", num_rounds=9, model="m", strategy="fedavg", seed=1, config={},
            parent_run_id=None, parent_round=None,
        )  # fmt: skip
        self.recorder.emit(started)
        self.exchange.replace_model(self.committer.commit_initial(self.state, 1))
        for number in range(self.clients):
            trainer = Trainer(self.address, FIRST_ID + number)
            thread = threading.Thread(target=self._accept().go_on)
            thread.start()
            trainer.registered()
            self._trainers.append(trainer)
            self._threads.append(thread)
        self.exchange.close_window()
        self.exchange.await_quorum(Deadline.after(PATIENCE), math.inf)

    def _accept(self) -> Session:
        sock, address = self._listener.accept()
        peer = Peer(host=address[0], port=address[1])
        return Session(sock, peer, next(self._connection_ids), self.context, lambda session: None)

    def round(self, number: int) -> None:
        """One round; the time of its parts is added up."""
        attempt = self.exchange.begin(number, 1)
        self.recorder.emit(
            events.AttemptStarted(
                round=number,
                attempt=1,
                process_id=1,
                clients=tuple(attempt.seats),
                not_sent=(),
                deadline_at=None,
                base_digest=self.exchange.model.digest,
            )
        )
        self.committer.begin(self.exchange.model)
        broadcast = self.buffers.render(self.exchange.model.state)
        self.recorder.flush()
        with self._timed("sending"):
            self.exchange.publish(broadcast)
        for trainer in self._trainers:
            trainer.receive()
        for trainer in self._trainers:
            with socket.create_connection(self.address) as connection:
                send_frame(connection, self._answer.shared, Answer.tail(trainer.client_id))
            with self._timed("accepting"):
                session = self._accept()
            with self._timed("session"):
                session.go_on()
        with self._timed("ending"):
            ended = self.exchange.take_ready(attempt, 0.0)
            assert isinstance(ended, EndedAttempt)
            assert ended.commits
            model = self.committer.commit(self.exchange.model, attempt, ended, monotonic())
            self.exchange.replace_model(model, ended.accepted)
            ended.updates.release()
        self.recorder.flush()

    def clear(self) -> None:
        """Forget what was measured so far."""
        self.seconds = dict.fromkeys(self.seconds, 0.0)
        self._before = self.written, self.record_seconds

    def figures(self, rounds: int) -> dict[str, float]:
        """Microseconds an upload of ``rounds`` rounds, since :meth:`clear`."""
        uploads = rounds * self.clients
        parts = self.seconds | {"writer": self.record_seconds - self._before[1]}
        found = {f"{part}_us": round(seconds / uploads * 1e6, 1) for part, seconds in parts.items()}
        return found | {"all_us": round(sum(parts.values()) / uploads * 1e6, 1)}

    @contextlib.contextmanager
    def _timed(self, part: str) -> Iterator[None]:
        began = time.thread_time()
        yield
        self.seconds[part] += time.thread_time() - began

    def close(self) -> None:
        """Say goodbye to the trainers, and end the record. Raises what broke that."""
        self.exchange.finish(Farewell("finished"))
        for trainer, thread in zip(self._trainers, self._threads, strict=True):
            trainer.receive()
            trainer.connection.close()
            thread.join()
        self._listener.close()
        self.recorder.close()
        self.context.memory.close()
        if self.failures:
            raise self.failures[0]


def an_upload(clients: int, rounds: int, directory: Path) -> dict[str, Any]:
    """The figures of ``rounds`` rounds, and once more of as many by parts."""
    kernel.load()
    kept, writer.LINGER = writer.LINGER, 60.0  # so that the record is written where the clock stands still
    try:
        with tempfile.TemporaryDirectory(dir=directory, prefix="bench-") as folder:
            served, clock = Served(clients, Path(folder)), Clock()
            served.begin()
            settle_garbage()
            numbers = count(1)
            try:
                served.round(next(numbers))  # layouts are learnt, and memory is made
                served.clear()
                for _ in range(rounds):
                    served.round(next(numbers))
                found = served.figures(rounds)
                with clock.watching():
                    for _ in range(rounds):
                        served.round(next(numbers))
            finally:
                served.close()
    finally:
        writer.LINGER = kept
    return found | {"parts": clock.figures(rounds * clients)}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--clients", type=int, default=CLIENTS)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--dir", type=Path, default=Path())
    given = parser.parse_args()
    torch.set_num_threads(1)
    print(json.dumps(an_upload(given.clients, given.rounds, given.dir)))


if __name__ == "__main__":
    main()
