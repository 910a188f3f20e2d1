"""A run's round thread with real rules and real files; the trainers have no sockets, and the record is the test's."""

import itertools
import threading
from pathlib import Path

import torch

from flserver.aggregation import FedAvg, State, Strategy
from flserver.aggregation.checks import Norms
from flserver.clock import monotonic
from flserver.identity.peer import Peer
from flserver.identity.rules import Identity
from flserver.models.checkpoint import CheckpointStore
from flserver.models.kept import KeptUpdates
from flserver.rounds import Registration, Rounds, Upload, Verdict
from flserver.rounds.broadcast import BroadcastBuffers, Ticket
from flserver.rounds.committer import Committer
from flserver.rounds.coordinator import Coordinator
from flserver.rounds.endings import Farewell
from flserver.rounds.exchange import Exchange
from flserver.rounds.folding import Folding
from flserver.rounds.updates import Submission
from flserver.wire.template import Template
from tests.patience import PATIENCE
from tests.recorder import RecordingRecorder
from tests.rounds.policies import policy

PEER = Peer(host="10.0.0.1", port=1)


class Watched(Submission):
    """One that tells when its memory was given back."""

    released: threading.Event


class Trainer:
    """A registered client without a socket: takes tickets, submits updates."""

    def __init__(self, run: "Run", client_id: str, data_size: int = 10) -> None:
        self.run, self.client_id = run, client_id
        self.rung = threading.Semaphore(0)
        self.registration: Registration = run.exchange.register(client_id, data_size, PEER)
        run.exchange.confirm_registration(self.registration, self.rung.release)

    def next(self) -> Ticket | Farewell:
        while (ticket := self.run.exchange.next_ticket(self.registration)) is None:
            assert self.rung.acquire(timeout=PATIENCE), self.run.recorder.events
        return ticket

    def model(self) -> Ticket:
        ticket = self.next()
        assert isinstance(ticket, Ticket)
        ticket.broadcast.release()
        ticket.sent.handed_over_at = ticket.sent.fully_sent_at = monotonic()
        return ticket

    def submit(
        self, tensors: State, rejection: str | None = None, confirm: bool = True, norms: Norms | None = None
    ) -> tuple[Watched, Verdict]:
        released = threading.Event()
        update_id = next(self.run.update_ids)
        upload = Upload(
            update_id=update_id,
            client_id=self.client_id,
            peer=PEER,
            accepted_at=monotonic(),
            digest="blake3:00",
            rejection=rejection,
            norms=norms,
        )
        submission = Watched(upload, tensors, (), released.set)
        submission.released = released
        verdict = self.run.folding.offer(submission)
        if confirm:
            self.run.folding.confirm(submission, verdict)
        return submission, verdict


class Run:
    def __init__(
        self,
        folder: Path,
        rounds: int = 1,
        strategy: Strategy | None = None,
        kept: KeptUpdates | None = None,
        **changed: object,
    ) -> None:
        self.recorder = RecordingRecorder()
        self.update_ids = itertools.count(1)
        module = torch.nn.Module()
        module.w = torch.nn.Parameter(torch.zeros(3, dtype=torch.float64))
        module.register_buffer("n", torch.tensor(0))
        buffers = BroadcastBuffers(Template.of({"header": "<MODEL>", "model": module}))
        committer = Committer(
            process_id=1,
            recorder=self.recorder,
            strategy=strategy or FedAvg(),
            evaluator=None,
            checkpoints=CheckpointStore(folder, "run"),
            keep=0,
            kept=kept,
            meanwhile=buffers.render,
        )
        CheckpointStore(folder, "run").prepare()
        model = committer.commit_initial(tensors(0, 0, 0), 1)
        rules = policy(**{"num_rounds": rounds, "time_to_wait": 0.0} | changed)
        self.exchange = Exchange(Rounds(rules, {}, None, Identity()), model)
        self.folding = Folding(self.exchange)
        self.folding.committer = committer
        self.ended = threading.Event()
        self.coordinator = Coordinator(
            run_id="run",
            policy=rules,
            exchange=self.exchange,
            prepare=lambda: (committer, buffers),
            recorder=self.recorder,
            process_id=1,
            attempts_before={},
            go_back=lambda round: f"go back to {round}",
            on_end=self.ended.set,
        )

    def __enter__(self) -> "Run":
        return self

    def __exit__(self, *_: object) -> None:
        if self.coordinator._thread.ident is not None:
            self.exchange.stop("the test is over")
            self.coordinator.join()

    def finish(self) -> str:
        assert self.ended.wait(PATIENCE)
        self.coordinator.join()
        return self.coordinator.state


def tensors(*values: float, n: int = 0) -> State:
    """float64, where the order of a sum shows most easily."""
    return {"w": torch.tensor(values, dtype=torch.float64), "n": torch.tensor(n)}
