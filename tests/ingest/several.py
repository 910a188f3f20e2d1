"""A coordinator and its nodes in one process, with real lines, rules, files and sockets; the record is the test's."""

import itertools
import random
import socket
import threading
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path

import torch

from flserver.aggregation import FedAvg, Strategy
from flserver.identity.rules import Identity
from flserver.ingest.desk import Desk
from flserver.ingest.folding import Layout
from flserver.ingest.ids import Ids
from flserver.ingest.lines import LineEnd
from flserver.ingest.node import Node
from flserver.ingest.place import Place
from flserver.models.checkpoint import CheckpointStore
from flserver.models.state import state_of
from flserver.network.listener import Listener
from flserver.process.nodes.called import CalledNodes, answers
from flserver.process.nodes.calls import Answering, Caller
from flserver.process.resources import capacity_of, first_limits, limits_of
from flserver.rounds import Rounds
from flserver.rounds.committer import Committer
from flserver.rounds.coordinator import Coordinator
from flserver.rounds.exchange import Exchange
from flserver.rounds.model import CurrentModel
from flserver.settings import server_settings
from flserver.wire.template import Template
from tests.e2e.harness import Peer
from tests.ingest.at_desk import names
from tests.patience import PATIENCE, eventually
from tests.recorder import RecordingRecorder
from tests.rounds.policies import policy

MEMORY = 1 << 24  # bytes, a node


class Model(torch.nn.Module):
    """Floating-point tensors and an integer one."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1 = torch.nn.Linear(30, 5)
        self.register_buffer("seen", torch.tensor([0, 0, 0]))


class OneNode:
    """A node, its place at the desk, and the line between them."""

    def __init__(self, several: "Several", name: str, *, prepared: bool = True) -> None:
        self.several, self.name = several, name
        settings = server_settings({"strangers_per_minute": 1000, **several.settings})
        self.listener = Listener("127.0.0.1", 0)
        self.node = Node(
            settings,
            self.listener,
            run_id="run",
            limits=first_limits(settings.network),
            capacity=capacity_of(settings.network),
            receive_memory=MEMORY,
        )
        self.place: Place = several.desk.open(name)
        here, there = socket.socketpair()
        self.ends = [
            LineEnd(here, self.node, name, ended=lambda why: self.node.lost(), over=lambda: self._over(self.node)),
            LineEnd(there, self.place, name, ended=self.place.gone, over=lambda: self.place.outbox.over),
        ]
        for end in self.ends:
            end.start()
        self.calls: list[Caller | Answering] = []
        if several.engine is not None:
            asks, answering = socket.socketpair()
            caller = Caller(asks, name, PATIENCE, lost=self.place.gone, ended=self.ends[1].cut)
            self.place.cut = self.ends[1].cut
            self.calls = [caller, Answering(answering, answers(self.node), ended=self.node.lost)]
            for one in self.calls:
                one.start()
            several.engine.add(caller)
        self.node.start()
        if prepared:
            self.prepare()

    @staticmethod
    def _over(node: Node) -> bool:
        return node.asking.outbox.over

    def prepare(self) -> None:
        """The node has what needs torch."""
        module = self.several.initial()
        template = Template.of({"header": "<MODEL>", "model": module})
        layout = state_of(module)
        limits = limits_of(server_settings({}).network, template, layout, parameter_tensors=2)
        self.node.prepared(layout, template, self.several.strategy(), limits, Layout({}, frozenset({"seen"})))

    @property
    def port(self) -> int:
        return self.listener.address[1]

    def cut(self) -> None:
        """End the line, as if the node were gone."""
        for one in (*self.ends, *self.calls):
            one._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self.node.join()
        for one in (*self.ends, *self.calls):
            one.close()
        self.place.join()


class Several:
    """A run with so many nodes, which make new models of any size by range where they are ``called``."""

    def __init__(
        self,
        folder: Path,
        nodes: int,
        rounds: int = 1,
        *,
        clients: int = 1,
        settings: Mapping[str, object] | None = None,
        small: bool = True,
        called: bool = False,
        strategy: Callable[[], Strategy] = FedAvg,
        **changed: object,
    ) -> None:
        self.settings, self.strategy = dict(settings or {}), strategy
        self.recorder = RecordingRecorder()
        rules = policy(**({"num_rounds": rounds, "time_to_wait": 0.0, "min_clients": clients} | changed))
        store = CheckpointStore(folder, "run")
        store.prepare()
        initial = state_of(self.initial())
        self.exchange = Exchange(Rounds(rules, {}, None, Identity()), CurrentModel(-1, initial, None))
        self.desk = Desk(self.exchange, self.recorder, Ids({"message_id": 1, "connection_id": 1, "update_id": 1}))
        self.desk.small = small
        self.engine = CalledNodes() if called else None
        if self.engine is not None:
            self.engine.least = 0
            self.desk.engine = self.engine
        self.committer = Committer(
            process_id=1,
            recorder=self.recorder,
            strategy=strategy(),
            evaluator=None,
            checkpoints=store,
            keep=0,
            meanwhile=self.desk.render,
            gathers=self.desk.gather,
        )
        self.ended = threading.Event()
        self.coordinator = Coordinator(
            run_id="run",
            policy=rules,
            exchange=self.exchange,
            prepare=lambda: (self.committer, self.desk),
            recorder=self.recorder,
            process_id=1,
            attempts_before={},
            go_back=lambda round: f"go back to {round}",
            on_end=self.ended.set,
        )
        self._names = itertools.count(1)
        self.nodes = [self.add() for _ in range(nodes)]
        self._peers = ExitStack()

    @staticmethod
    def initial() -> Model:
        """The model that a run begins with."""
        with torch.random.fork_rng():
            torch.manual_seed(3)
            return Model()

    def port(self, chance: random.Random) -> int:
        """That of some node."""
        return chance.choice(self.nodes).port

    def add(self, *, prepared: bool = True) -> OneNode:
        """One more node."""
        return OneNode(self, f"node-{next(self._names)}", prepared=prepared)

    def __enter__(self) -> "Several":
        self.coordinator.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.exchange.stop("the test is over")
        self.coordinator.join()
        self._peers.close()
        self.desk.close(2.0, PATIENCE)
        for node in self.nodes:
            node.close()
        if self.engine is not None:
            self.engine.close()

    def peer(self, client_id: object, node: int = 0, data_size: int = 10) -> Peer:
        """A trainer that has registered at a node."""
        return self._peers.enter_context(Peer(self.nodes[node].port, client_id, data_size)).join()

    def finish(self) -> str:
        assert self.ended.wait(PATIENCE)
        self.coordinator.join()
        return self.coordinator.state

    def eventually_gone(self, name: str) -> None:
        eventually(lambda: name not in names(self.desk))
