"""What the trainers of a small run do, one step after the other, and what they see.

Four clients: ``a`` sends each answer twice, ``c``'s of round 2 is not finite, and ``d`` leaves with the first model
that it gets and answers when that round is over. Somebody else registers as ``a``, too. What a client answers follows
from the model and from who it is, so each round has the same updates in it, however often the server is killed.
"""

import contextlib
from dataclasses import dataclass
from typing import Any

from tests.crash.process import Server
from tests.e2e.harness import Peer

ROUNDS = 4
ACCEPTED = {1: {"a", "b", "c"}, 2: {"a", "b"}, 3: {"a", "b", "c"}, 4: {"a", "b", "c"}}
CHANGES = {"a": 0.125, "b": -0.0625, "c": 0.01, "d": 7.0}
SIZES = {"a": 100, "b": 77, "c": 13, "d": 1000}

REGISTERED = """SELECT COUNT(*) >= ? FROM v1_messages m JOIN v1_clients c USING (run_id, connection_id)
    WHERE m.header = '<METADATA>' AND m.outcome = 'ok' AND c.client_id = ?"""
REFUSED = "SELECT COUNT(*) >= ? FROM v1_messages WHERE header = '<METADATA>' AND outcome = 'refused'"
COMMITTED = "SELECT COUNT(*) FROM v1_rounds WHERE round = ? AND status = 'committed'"
COMPLETE = "SELECT COUNT(*) FROM v1_runs WHERE status = 'completed'"


@dataclass(frozen=True)
class Effect:
    """What somebody outside has seen once ``at`` operations were recorded: from then on ``query`` must find a row that
    says so."""

    at: int
    what: str
    query: str
    parameters: tuple[Any, ...] = ()


class Trainers:
    """The trainers of a run, through however many servers. ``effects`` is what they saw."""

    def __init__(self) -> None:
        self.effects: list[Effect] = []
        self._registered = dict.fromkeys(CHANGES, 0)
        self._refused = 0
        self._late: Any = None  # what d answers when its round is over
        self.finished = False

    def take_part(self, server: Server, port: int, first: int) -> None:
        """Play the script from round ``first`` on. Whatever a server that dies does to connections ends it. Where no
        round is left, the server ends by itself."""
        if first > ROUNDS:
            return
        self._late = None
        with contextlib.ExitStack() as stack, contextlib.suppress(OSError, EOFError):
            peers = {name: stack.enter_context(Peer(port, name, size)) for name, size in SIZES.items()}
            for name, peer in peers.items():
                answer = peer.register()
                assert answer["header"] == "<SUCCESS>", f"{name} is told {answer}"
                self._registered[name] += 1
                self._see(server, f"{name} is registered", REGISTERED, self._registered[name], name)
            twin = stack.enter_context(Peer(port, "a"))
            assert twin.register()["header"] == "<ERROR>"
            self._refused += 1
            self._see(server, "a twin is refused", REFUSED, self._refused)
            for round in range(first, ROUNDS + 1):
                self._round(server, peers, round, leaves=round == first)
            for name in "abc":
                _finished(peers[name])
                self._see(server, f"{name} is told <FINISHED>", COMPLETE)
            self.finished = True

    def _round(self, server: Server, peers: dict[str, Peer], round: int, *, leaves: bool) -> None:
        models = {}
        for name, peer in peers.items():
            if name != "d" or leaves:
                models[name] = _model(peer)
                self._see(server, f"{name} has the model of round {round}", COMMITTED, round - 1)
        if leaves:
            peers["d"].connection.close()
        elif self._late is not None:
            peers["d"].upload(self._late)
            self._late = None
        for name in "acb":
            change = float("nan") if (name, round) == ("c", 2) else CHANGES[name]
            for parameter in models[name].parameters():
                parameter.data.add_(change)
            peers[name].upload(models[name])
            if name == "a":
                peers[name].upload(models[name])
        if leaves:
            self._late = models["d"]

    def _see(self, server: Server, what: str, query: str, *parameters: object) -> None:
        self.effects.append(Effect(server.done, what, query, parameters))


def _model(peer: Peer) -> Any:
    message = _message(peer)
    assert message["header"] == "<MODEL>", message
    return message["model"]


def _finished(peer: Peer) -> None:
    assert (message := _message(peer)) == {"header": "<FINISHED>"}, message


def _message(peer: Peer) -> dict[str, Any]:
    """The next message. Raises EOFError where it is that the server stops before its run is complete."""
    if (message := peer.message()) == {"header": "<FINISHED>", "complete": False}:
        raise EOFError("the server stops")
    return message
