"""The rooms of the network at work: real sessions over pairs of sockets, in a run whose coordinator is the test."""

import dataclasses
import json
import pickle
import socket
import threading
from collections.abc import Callable, Collection
from itertools import count
from pathlib import Path
from typing import Any

import torch

from flserver import events as e
from flserver.aggregation import Strategy
from flserver.identity.peer import Peer
from flserver.identity.rules import Identity
from flserver.models.checkpoint import CheckpointStore
from flserver.models.state import state_of
from flserver.network.context import Context, Limits
from flserver.network.decoding import Decoding
from flserver.network.memory import ReceiveMemory
from flserver.network.preamble import Preamble
from flserver.network.session import Session
from flserver.network.strangers import Strangers
from flserver.network.transport import Pace
from flserver.rounds import Attempt, Rounds
from flserver.rounds.broadcast import BroadcastBuffers
from flserver.rounds.committer import Committer
from flserver.rounds.exchange import Exchange
from flserver.rounds.folding import Folding
from flserver.rounds.model import CurrentModel
from flserver.settings import Goodbye
from flserver.wire.pickles import PickleLimits
from flserver.wire.template import Template
from tests.network.frames import framed
from tests.patience import PATIENCE, eventually
from tests.recorder import RecordingRecorder
from tests.rounds.policies import policy
from tests.sums import InTurn

PEER = Peer(host="10.0.0.1", port=40000)
STRANGER = Peer(host="10.0.0.9", port=40000)
FORWARDER = Peer(host="127.0.0.1", port=40000)
LIMIT = 1 << 20  # bytes of an update


def metadata(client_id: object, data_size: int = 10, **more: object) -> bytes:
    return json.dumps({"header": "<METADATA>", "id": client_id, "data_size": data_size} | more).encode()


def update(client_id: object, model: object, **more: object) -> bytes:
    return pickle.dumps({"header": "<MODEL>", "id": client_id, "model": model} | more)


def linear(size: int = 40, value: float = 0.0) -> torch.nn.Module:
    """A model of ``size`` × (``size`` + 1) float32, all of them ``value``."""
    module = torch.nn.Linear(size, size)
    for parameter in module.parameters():
        torch.nn.init.constant_(parameter, value)
    return module


class NotedSocket(socket.socket):
    """Our end of a connection. Before each send it notes what is sent, and what ``look`` gives then."""

    def __init__(self, sock: socket.socket, look: Callable[[], Any]) -> None:
        super().__init__(fileno=sock.detach())
        self._look = look
        self.sends: list[tuple[bytes, Any]] = []

    def send(self, data: Any, flags: int = 0) -> int:
        self.sends.append((bytes(data), self._look()))
        return super().send(data, flags)

    def sendmsg(self, buffers: Any, *rest: Any) -> int:
        return self.send(b"".join(buffers))

    def seen_at(self, text: bytes) -> Any:
        """What ``look`` gave when the first bytes with ``text`` in them were about to go."""
        return next(seen for data, seen in self.sends if text in data)


class Line:
    """One connection: the trainer's end, for the test to speak on, and the session that serves the other."""

    def __init__(self, network: "Network", session: Session, ours: NotedSocket, trainer: socket.socket) -> None:
        self._network = network
        self.session, self.ours, self.trainer = session, ours, trainer
        trainer.settimeout(PATIENCE)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name=f"a test's session {session.connection_id}")
        self._thread.start()

    def _run(self) -> None:
        try:
            self.session.go_on()
        except BaseException as error:
            self._error = error

    # --- the trainer -------------------------------------------------------------------------------------------------

    def send(self, body: bytes) -> "Line":
        self.trainer.sendall(framed(body))
        return self

    def receive(self) -> bytes:
        """The next frame's body."""
        length = int.from_bytes(self.exactly(8), "big")
        return self.exactly(length)

    def answer(self) -> dict[str, Any]:
        return dict(json.loads(self.receive()))

    def message(self) -> dict[str, Any]:
        return dict(pickle.loads(self.receive()))

    def exactly(self, size: int) -> bytes:
        """The next bytes."""
        got = bytearray()
        while len(got) < size:
            came = self.trainer.recv(size - len(got))
            assert came, f"the end of the connection after {bytes(got[:80])!r}"
            got += came
        return bytes(got)

    def hang_up(self) -> "Line":
        self.trainer.close()
        return self

    # --- the session -------------------------------------------------------------------------------------------------

    def ended(self) -> "Line":
        """Wait for the end of the session. Raises what it raised."""
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive(), self.story()
        if self._error is not None:
            raise self._error
        return self

    def of(self, kind: type[Any]) -> list[Any]:
        """The events of a kind on this connection."""
        found = self._network.recorder.of(kind)
        return [event for event in found if event.connection_id == self.session.connection_id]

    def story(self) -> list[str]:
        """What is on record of the connection, an event a line."""
        number = self.session.connection_id
        return [told(event) for event in self._network.recorder.events if getattr(event, "connection_id", 0) == number]

    def close(self) -> None:
        self.trainer.close()
        self.session.cut("the test is over")
        self._thread.join(PATIENCE)


def told(event: e.Event) -> str:
    match event:
        case e.ConnectionOpened():
            return "opened"
        case e.PeerIdentified():
            return f"identified {event.peer_host} behind {event.proxy_host} by {event.transport}"
        case e.MessageReceived():
            return f"in {event.header} {event.outcome}{because(event.reason)}"
        case e.MessageSent():
            return f"out {event.header} {event.outcome}{because(event.reason)}"
        case e.ClientRegistered():
            return f"registered {event.client_id}"
        case e.ClientLeft():
            return f"left: {event.reason}"
        case e.UpdateReceived():
            return f"update {event.decision or 'counts'}{because(event.reason)}"
        case e.ConnectionClosed():
            return f"closed, {event.purpose} of {event.client_id}: {event.reason}"
    raise AssertionError(f"no connection's event: {event}")


def because(reason: str | None) -> str:
    return f": {reason}" if reason else ""


class Network:
    """What sessions share, with real parts: the rules, the exchange, the memory, and ``module`` as the model.

    ``rules`` are the round policy's, ``limits`` a connection's; one update makes a round, and its end is the test's, as
    is what becomes of the updates, but for a ``strategy`` that takes them as they arrive.
    """

    def __init__(
        self,
        folder: Path,
        *,
        module: torch.nn.Module | None = None,
        identity: Identity | None = None,
        preamble: Preamble | None = None,
        rules: dict[str, object] | None = None,
        goodbye: Goodbye = "finished",
        accept_dtypes: Collection[str] = (),
        strangers_per_minute: int = 1000,
        strategy: Strategy | None = None,
        **limits: Any,
    ) -> None:
        self.recorder = RecordingRecorder()
        self.strangers = Strangers(self.recorder, strangers_per_minute)
        module, identity = module or linear(), identity or Identity()
        state = state_of(module)
        given = policy(**({"min_updates": 1, "round_timeout": PATIENCE} | (rules or {})))
        self.rounds = Rounds(given, {}, None, identity)
        self.exchange = Exchange(self.rounds, CurrentModel(0, state, "sha256:0"))
        self.buffers = BroadcastBuffers(Template.of({"header": "<MODEL>", "model": module}))
        default = Limits(
            json=4096,
            pickle=LIMIT,
            usual=LIMIT,
            kept=LIMIT,
            tensors=2 * sum(tensor.nbytes for tensor in state.values()),
            pickles=PickleLimits(),
            weight=LIMIT,
            ordinary=10_000,
            first_frame=PATIENCE,
            pace=Pace(whole=PATIENCE),
            peer_timeout=PATIENCE,
        )
        self.memory = ReceiveMemory(4 * LIMIT, LIMIT, folder)
        self.committer = Committer(
            process_id=1,
            recorder=self.recorder,
            strategy=strategy or InTurn(),
            evaluator=None,
            checkpoints=CheckpointStore(folder, "night"),
            keep=0,
        )
        self.context = Context(
            run_id="night",
            goodbye=goodbye,
            exchange=self.exchange,
            folding=Folding(self.exchange),
            recorder=self.recorder,
            strangers=self.strangers,
            memory=self.memory,
            decoding=Decoding(self.memory, LIMIT),
            limits=dataclasses.replace(default, **limits),
            preamble=preamble or Preamble(tls=None, proxies=(), seconds=PATIENCE),
            identity=identity,
            tied={},
            buffers=frozenset(),
            accept_dtypes=accept_dtypes,
            message_ids=count(1),
            update_ids=count(1),
            known=threading.Event(),
        )
        self.context.folding.committer = self.committer
        self.context.known.set()
        self._connection_ids = count(1)
        self._lines: list[Line] = []

    def durable(self) -> list[e.Event]:
        """What would be left after a power loss now."""
        return self.recorder.events[: self.recorder.durable]

    # --- connections -------------------------------------------------------------------------------------------------

    def connect(
        self,
        peer: Peer = PEER,
        look: Callable[[], Any] | None = None,
        take_place: Callable[[Session], None] = lambda session: None,
        sent: bytes = b"",
    ) -> Line:
        """A connection from ``peer``, which has ``sent`` that already, being served.

        ``look`` is told in ``ours``; else what is durable is seen.
        """
        ours, trainer = socket.socketpair()
        trainer.sendall(sent)
        noted = NotedSocket(ours, look or self.durable)
        session = Session(noted, peer, next(self._connection_ids), self.context, take_place)
        self._lines.append(Line(self, session, noted, trainer))
        return self._lines[-1]

    def registered(self, client_id: str, peer: Peer = PEER, **more: Any) -> Line:
        """A trainer's first connection, when it takes part."""
        line = self.connect(peer, **more).send(metadata(client_id))
        return self.admitted(client_id, line)

    def admitted(self, client_id: str, line: Line) -> Line:
        """A line on which a client asked to take part, when it does."""
        assert line.answer()["header"] == "<SUCCESS>"
        eventually(lambda: self.rounds.participants[client_id].live)
        return line

    def await_sessions(self) -> None:
        """Wait until those who publish a model may send it: every session waits for its bell."""
        for _, send in self.exchange._bells.values():
            eventually(send)

    def uploaded(self, client_id: str, module: torch.nn.Module, peer: Peer = PEER, **more: object) -> Line:
        """An upload's connection, when it is over."""
        return self.connect(peer).send(update(client_id, module, **more)).ended()

    def close(self) -> None:
        for line in self._lines:
            line.close()

    # --- the coordinator ---------------------------------------------------------------------------------------------

    def begin(self, round: int = 1, number: int = 1) -> Attempt:
        """Start an attempt and let its model be sent to everyone who takes part."""
        attempt = self.exchange.begin(round, number)
        self.committer.begin(self.exchange.model)
        self.exchange.publish(self.buffers.render(self.exchange.model.state))
        return attempt
