"""A run over nodes that make new models by range, with threads of this process where those have processes: over
``process.ray.nodes``, where all but Ray is as it is, and over ``process.nodes.called``."""

import random
import re
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as Late
from concurrent.futures import wait as settle
from contextlib import ExitStack, closing
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock
from weakref import WeakKeyDictionary, WeakSet

import torch

from flserver.aggregation import load_strategy
from flserver.aggregation.checks import state_digest
from flserver.cluster.ray import ActorGone, ActorLate
from flserver.errors import FlserverError
from flserver.models.state import State, state_of
from flserver.network.listener import Reservation
from flserver.process.nodes.terms import Terms
from flserver.process.own_code import digests_of
from flserver.process.ray import nodes as ray_nodes
from flserver.process.ray.node import RayNode
from flserver.settings import server_settings
from tests.e2e.harness import Peer
from tests.ingest.at_desk import names
from tests.ingest.several import Several
from tests.patience import PATIENCE, eventually


class Model(torch.nn.Module):
    """Several blocks of a sum, in parts that end beside their seams, and integers."""

    def __init__(self) -> None:
        super().__init__()
        self.wide = torch.nn.Linear(120, 101)
        self.register_buffer("fine", torch.zeros(4099, dtype=torch.float64))
        self.register_buffer("coarse", torch.zeros(7, dtype=torch.float16))
        self.register_buffer("seen", torch.zeros(9, dtype=torch.int64))
        self.register_buffer("mask", torch.zeros(5, dtype=torch.bool))


def initial() -> Model:
    """The model that a run begins with."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return Model()


def changed(state: State, client: int, round: int) -> Model:
    """What a client makes of a round's model: numbers of its own size, and counters that differ."""
    numbers = torch.Generator().manual_seed(1000 * round + client)
    model = initial()
    model.load_state_dict(state)
    for tensor in model.state_dict().values():
        if tensor.is_floating_point():
            tensor.add_(torch.randn(tensor.shape, generator=numbers).to(tensor.dtype) * 10.0 ** (client % 5 - 3))
        else:
            tensor.copy_(torch.randint(0, 2 if tensor.dtype == torch.bool else 4, tensor.shape, generator=numbers))
    return model


def on_one(clients: int, rounds: int, strategy: str = "fedavg") -> list[str]:
    """The digests of a run's models where one machine has all."""
    state, alone = state_of(initial()), load_strategy(strategy)
    found = []
    for round in range(1, rounds + 1):
        alone.begin(state)
        for client in sorted(range(clients), key=str):
            alone.add(state_of(changed(state, client, round)), 10 + client)
        state = alone.finish()
        found.append(state_digest(state))
    return found


class Handle:
    """What is called as an actor's handle is. One that ``hangs`` answers nothing any more, or not what it ``hangs_at``:
    its calls are ``unanswered`` until it is dead, and so are those that wait for their answers."""

    def __init__(self, threads: "Threads", kept: RayNode, *, hangs: bool = False) -> None:
        self.threads, self.kept, self.dead, self.hangs = threads, kept, False, hangs
        self.hangs_at: str | None = None
        self.unanswered: list[Future[Any]] = []

    def __getattr__(self, method: str) -> Any:
        return mock.Mock(remote=partial(self.threads.call, self, method))


class Threads:
    """``cluster.ray.Cluster``'s part, which is ``watched`` from its ``watch`` to its ``leave``."""

    machine = "the server's"
    is_gone = watched = False

    def __init__(self, address: str, run_id: str) -> None:
        self._pool = ThreadPoolExecutor(64)
        self._elsewhere = WeakSet[Future[Any]]()  # answers that go from one node to another
        self._given = WeakKeyDictionary[Future[Any], list[Future[Any]]]()  # the answers that each waits for
        self.actors: dict[str, Handle] = {}
        self.made_hanging = False  # whether actors begin that way

    def call(self, handle: Handle, method: str, *given: object) -> "Future[Any]":
        if (handle.hangs or method == handle.hangs_at) and not handle.dead:
            handle.unanswered.append(Future())
            return handle.unanswered[-1]

        def called() -> Any:
            values = [value.result() if isinstance(value, Future) else value for value in given]
            answer = getattr(handle.kept, method)(*values)
            if handle.dead:
                raise ActorGone("its process died")
            return answer

        answer = self._pool.submit(called)
        if method == "cut":
            self._elsewhere.add(answer)
        self._given[answer] = [value for value in given if isinstance(value, Future)]
        return answer

    def _hangs(self, reference: "Future[Any]") -> bool:
        given = self._given.get(reference, ())
        return any(reference in handle.unanswered for handle in self.actors.values()) or any(map(self._hangs, given))

    def names(self) -> list[str]:
        return [name for name, handle in self.actors.items() if not (handle.dead or self.is_gone)]

    def find(self, name: str) -> Handle | None:
        handle = self.actors.get(name)
        return None if handle is None or handle.dead else handle

    def make(self, kind: Callable[[], RayNode], name: str) -> Handle:
        self.actors[name] = handle = Handle(self, kind(), hangs=self.made_hanging)
        return handle

    def kill(self, handle: Handle) -> None:
        if not handle.dead:
            handle.dead = True
            handle.kept.stop()
            for call in handle.unanswered:
                call.set_exception(ActorGone("its process died"))

    def put(self, value: object) -> "Future[Any]":
        made: Future[Any] = Future()
        made.set_result(value)
        return made

    def answered(self, reference: "Future[Any]", seconds: float) -> bool:
        return reference not in self._elsewhere and bool(settle([reference], seconds).done)

    def is_made(self, reference: "Future[Any]") -> bool:
        # Whoever asks has waited for long, elsewhere than here.
        return not self._hangs(reference) and bool(settle([reference], PATIENCE).done)

    def get(self, reference: "Future[Any]", seconds: float) -> Any:
        try:
            return reference.result(
                0.0 if self._hangs(reference) else PATIENCE
            )  # nobody who answers is too late on a busy machine
        except Late as error:
            raise ActorLate(f"it has not answered within {seconds:g} s") from error
        except FlserverError:
            raise
        except Exception as error:
            raise ActorGone(str(error)) from error

    def get_all(self, references: "list[Future[Any]]", seconds: float) -> list[Any]:
        return [self.get(reference, seconds) for reference in references]

    def watch(self, gone: Callable[[str], None]) -> None:
        """It has no head."""
        self.watched = True

    def leave(self) -> None:
        self.watched = False
        self._pool.shutdown()


class OnThreads:
    """A run whose ``nodes`` are each on a machine of its own, but for their host: ``ports`` are theirs."""

    def __init__(
        self,
        folder: Path,
        nodes: int,
        rounds: int,
        clients: int,
        *,
        strategy: str = "fedavg",
        staying: mock.Mock | None = None,
        **changed: object,
    ) -> None:
        self._stack = ExitStack()
        values = {"model": "tests.ingest.on_threads:initial", "server_port": 0, "ingest": nodes, "ray_address": "none"}
        values["strategy"] = strategy
        machines = iter(range(10**6))

        class Here(RayNode):
            def __init__(self) -> None:
                super().__init__()
                self._machine = f"machine-{next(machines)}"

            def where(self) -> dict[str, Any]:
                port = None if self._port is None else self._port.address[1]
                where = {"machine": self._machine, "host": "127.0.0.1", "pid": 0, "port": port}
                return where | {"tokens": True, "code": self._code, "own_code": {}, "about": asdict(self._about)}

        for place, new in (
            ("nodes.Cluster", Threads),
            ("nodes.RayNode", Here),
            ("node.log_as", mock.Mock()),
        ):
            self._stack.enter_context(mock.patch(f"flserver.process.ray.{place}", new))
        with mock.patch.object(Several, "initial", staticmethod(initial)):
            made = partial(load_strategy, strategy)
            self.several = Several(folder, 0, rounds, clients=clients, small=False, strategy=made, **changed)
        self._said, self._more = list[str](), threading.Condition()
        reservation = self._stack.enter_context(closing(Reservation("127.0.0.1", 0)))
        settings, desk, say = server_settings(values), self.several.desk, self._say
        terms = Terms(settings, "run", digests_of(settings))
        self.nodes = ray_nodes.RayNodes(terms, reservation, desk, say, say, lambda round: (), staying)
        self.threads: Threads = self.nodes._cluster  # type: ignore[assignment]
        self._count = nodes

    def _say(self, line: str) -> None:
        with self._more:
            self._said.append(line)

    def ports(self) -> list[int]:
        """Where the nodes listen that there are, once there are all."""

        def found() -> list[int]:
            with self._more:
                said = [re.search(r"(\S+) \(process \d+\): .*:(\d+)$", line) for line in self._said]
            there = [int(match[2]) for match in said if match is not None and match[1] in names(self.several.desk)]
            return there if len(there) == self._count else []

        return eventually(found)

    def __enter__(self) -> "OnThreads":
        self.several.__enter__()
        self.nodes.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.several.exchange.stop("the test is over")
        self.several.coordinator.join()
        self.several._peers.close()
        self.nodes.close(1.0)
        self.several.__exit__()
        self._stack.close()


def uploaded(peer: Peer, port: int, model: torch.nn.Module) -> None:
    """Answer at another node than the one where the trainer registered."""
    home, peer.port = peer.port, port
    peer.upload(model)
    peer.port = home


class Called:
    """A run whose nodes are called as those are that are processes of this machine."""

    def __init__(self, folder: Path, nodes: int, rounds: int, clients: int, *, strategy: str = "fedavg") -> None:
        made = partial(load_strategy, strategy)
        with mock.patch.object(Several, "initial", staticmethod(initial)):
            self.several = Several(folder, nodes, rounds, clients=clients, small=False, strategy=made, called=True)

    def ports(self) -> list[int]:
        """Where the nodes listen."""
        return [node.port for node in self.several.nodes]

    def __enter__(self) -> "Called":
        self.several.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self.several.__exit__()


Engine = type[OnThreads] | type[Called]


def shuffled(
    folder: Path,
    nodes: int,
    seed: int,
    clients: int,
    rounds: int,
    *,
    strategy: str = "fedavg",
    engine: Engine = OnThreads,
) -> list[str]:
    """The digests of a run's models; who comes when, to which node, and where it answers, is shuffled by ``seed``."""
    chance, found = random.Random(seed), []
    with engine(folder, nodes, rounds, clients, strategy=strategy) as run:
        ports, peers = run.ports(), {}
        for client in chance.sample(range(clients), clients):
            peer = Peer(chance.choice(ports), client, 10 + client)
            peers[client] = run.several._peers.enter_context(peer).join()
        for round in range(1, rounds + 1):
            given = {client: state_of(peer.model()) for client, peer in peers.items()}
            if round > 1:
                found.append(state_digest(given[0]))
            with ThreadPoolExecutor(clients) as pool:
                going = [
                    pool.submit(uploaded, peers[client], chance.choice(ports), changed(given[client], client, round))
                    for client in chance.sample(range(clients), clients)
                ]
            for one in going:
                one.result()
        for peer in peers.values():
            peer.finished()
        assert run.several.finish() == "completed"
        return [*found, state_digest(run.several.exchange.model.state)]
