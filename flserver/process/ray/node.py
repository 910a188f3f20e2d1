"""An ingest node as an actor of a Ray cluster, on whichever of its machines.

The process outlives the server that it serves. While no server asks for what it has to say, it lets nobody in; the
run's next server begins it anew, with torch in memory. One that nobody wants any more ends by itself.
"""

import logging
import os
import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any, ClassVar

from flserver.clock import monotonic
from flserver.errors import FlserverError, StoreError, one_line
from flserver.ingest.faults import NodesFault, is_its_own
from flserver.network.inherited import InheritedTrainer
from flserver.process.nodes.about import About
from flserver.process.nodes.child import log_as, make_model, node_of
from flserver.process.nodes.terms import Told
from flserver.process.own_code import imported
from flserver.process.ray.known import KnownBy
from flserver.process.ray.port import KeptPort
from flserver.process.ray.served import Served
from flserver.process.resources import allow_descriptors, limit_arenas

if TYPE_CHECKING:
    import numpy as np

    from flserver.aggregation import State

LOOK_SECONDS = 1.0
SERVES_NONE = "this node serves no run"
OTHERS = "another server has gone on with the run"
SILENT_SECONDS = 15.0  # without a server that asks: then it is gone
UNWANTED_SECONDS = 600.0  # the same: then nobody goes on with the run soon
HAND_ON_SECONDS = 1.0  # that uploads have to come to their end where another server goes on

logger = logging.getLogger(__name__)


class RayNode:
    """What Ray makes of a node. Its methods are called on several threads; ``apart`` has those that no other one keeps
    waiting, or that would."""

    apart: ClassVar[Mapping[str, str]] = {"is_there": "there", "cut": "sums", "made": "sums"}

    def __init__(self) -> None:
        allow_descriptors()
        limit_arenas()
        self._lock = threading.Lock()  # guards the nine below, while they change
        self._served: Served | None = None
        self._name = ""  # of the last one
        self._why = SERVES_NONE  # there is no node
        self._port: KeptPort | None = None
        self._server: str | None = None  # whose it is
        self._left: list[InheritedTrainer] = []  # by the server before, for the next one
        self._known: KnownBy | None = None  # as those that are left were let in
        self._answered: dict[str, tuple[int, int]] = {}
        self._asked = monotonic()
        self._about = About.of_this()
        self._code = self._about.code["flserver"]
        self._stopped = threading.Event()
        # Ray ends this process without asking: nobody joins a thread in it.
        threading.Thread(target=self._watch, name="node-watch", daemon=True).start()

    def where(self) -> dict[str, Any]:
        """The machine, as Ray knows it and by its address there; the process, what goes on record of it, and where it
        listens, if it does."""
        import ray

        context, port = ray.get_runtime_context(), self._port
        return {
            "port": None if port is None else port.address[1],
            "machine": context.get_node_id(),
            "host": ray.util.get_node_ip_address(),
            "pid": os.getpid(),
            "tokens": os.environ.get("RAY_AUTH_MODE") == "token",
            "code": self._code,
            "own_code": imported(),
            "about": asdict(self._about),
        }

    def hand_on(self, server: str) -> dict[str, Any]:
        """Be that server's from here on, the run's next one: the one before is gone. What was served ends, but for
        trainers that nothing is under way with, who stay until ``begin``. Gives what ``where`` does, which
        model (round, attempt) each of these trainers ``holds``, by its client, and during which attempt the last upload
        of each client was whole here."""
        with self._lock:
            before, self._served, self._why = self._served, None, OTHERS
            self._server, self._asked = server, monotonic()
        if before is not None:
            left = before.hand_on(HAND_ON_SECONDS)
            with self._lock:
                self._left += left
                self._answered |= before.node.answered
        with self._lock:
            held = {left.metadata.client_id: left.holds for left in self._left}
        return self.where() | {
            "holds": {client: (sent.round, sent.attempt) for client, sent in held.items() if sent is not None},
            "answered": self._answered,
        }

    def stay(self, server: str | None) -> bool:
        """Whether it is still that server's, which is gone: then it is as if that had asked, and nobody is let go. Said
        by the run's next one, from when it has the run until it is ready to go on."""
        with self._lock:
            if self._server == server:
                self._asked = monotonic()
            return self._server == server

    def serves(self) -> str | None:
        """Which server's it is."""
        return self._server

    def begin(
        self, described: bytes, host: str, port: int, beside: bool, server: str, idle: Collection[str] = ()
    ) -> dict[str, Any]:
        """Be a node of that server anew, of what ``nodes.terms.Terms`` tell, that listens there, ``beside``
        others or as the first one on its machine, and goes on with the trainers that were left here. Clients that are
        ``idle`` have answered the model that they were sent. Gives ``host`` and ``port``, or why not as ``error``."""
        told = Told.read(described)
        with self._lock:
            if self._server not in (None, server):
                return {"error": OTHERS}
            self._server, self._asked = server, monotonic()
            before, self._served, self._why = self._served, None, SERVES_NONE
        if before is not None:
            before.end()
        log_as(told.settings, told.name)
        known = KnownBy.of(told.settings)
        idle = frozenset(idle)
        try:
            with self._lock:
                if self._server != server:  # it has lost the run meanwhile, or was silent
                    return {"error": OTHERS}
                self._asked = monotonic()
                kept = self._listen(host, port, beside=beside)
                listener = kept.shared()
                node = node_of(told, listener)
                left, self._left = self._left, []
                if self._known not in (None, known):
                    for one in left:  # nobody who was let in by other rules goes on: they come back by themselves
                        one.close()
                    left = []
                self._known = known
                node.start([replace(one, holds=None) if one.metadata.client_id in idle else one for one in left])
                self._served = served = Served(node=node, listener=listener)
                self._name = told.name
        except FlserverError as error:
            return {"error": one_line(error)}
        served.hear(lambda why: self._end(why, served))
        threading.Thread(target=make_model, args=(node, told), name="model", daemon=True).start()
        host, port = kept.address
        return {"host": host, "port": port}

    def _listen(self, host: str, port: int, *, beside: bool) -> KeptPort:
        """Under the lock. Raises UsageError."""
        if self._port is None or self._port.asked != (host, port):
            if self._port is not None:
                self._port.close()
                self._port = None
            self._port = KeptPort(host, port, beside=beside)
        return self._port

    # --- the line ----------------------------------------------------------------------------------------------------

    def take(self, server: str, seconds: float) -> tuple[bytes, bool]:
        """What the node of that server has to say, and whether nothing follows."""
        node = self._of(server).node
        self._asked = monotonic()
        batch = node.take(seconds)
        over = not batch and node.asking.outbox.over
        with self._lock:
            if self._server == server:
                self._asked = monotonic()
            if over and (self._served is None or self._served.node is not node):  # it did not end by a goodbye
                raise self._none_for(server)
        return batch, over

    def give(self, server: str, batch: bytes) -> None:
        """What that server's desk says. It is done in its order, behind this call: what takes long, such as a large
        model or a sum, is no sign that the node is gone."""
        self._of(server).told.put(batch)

    def model(self, server: str, number: int, tensors: "Sequence[np.ndarray]") -> None:
        """A model's bytes, which lie where Ray has put them, once for all nodes of a machine."""
        self._of(server).node.model(number, [memoryview(tensor) for tensor in tensors])  # type: ignore[arg-type]

    def is_there(self) -> bool:
        """Whether it answers: at once, whatever else it does."""
        return True

    # --- sums --------------------------------------------------------------------------------------------------------

    def cut(self, server: str, round: int, attempt: int, number: int, count: int) -> "dict[str, np.ndarray]":
        """What it has of the attempt in one of ``count`` ranges."""
        from flserver.models.state import together

        with self._own_faults(server):
            making = self._of(server).node.making
            return making.cut(round, attempt, [number], count, lambda cut: _arrays(together(cut[0])))

    def made(
        self, server: str, round: int, attempt: int, number: int, count: int, *others: "dict[str, np.ndarray]"
    ) -> "dict[str, np.ndarray]":
        """The new model in one of ``count`` ranges: of what it has of the attempt, and of what ``others`` have there.
        A tensor is its bytes."""
        import torch

        from flserver.models.state import tensor_over

        with self._own_faults(server):
            theirs = ({name: tensor_over(array) for name, array in other.items()} for other in others)
            made = self._of(server).node.making.made(round, attempt, number, count, theirs)
            return {name: tensor.view(-1).view(torch.uint8).numpy() for name, tensor in made.items()}

    @contextmanager
    def _own_faults(self, server: str) -> Iterator[None]:
        """What fails within, and is this node's alone, says so, to whoever was given what another one made of it, where
        it is that server's."""
        with self._lock:
            name = self._name if self._server in (None, server) else None
        try:
            yield
        except Exception as error:
            if name is not None and is_its_own(error):
                raise NodesFault(name, one_line(error)) from error
            raise

    # --- its end -----------------------------------------------------------------------------------------------------

    def stop(self) -> None:
        """End what it serves, for whoever has it without a process of its own."""
        self._stopped.set()
        self._end(SERVES_NONE)

    def _of(self, server: str) -> Served:
        """What is that server's, which asks. Raises StoreError where nothing is, as for one that was paused until
        another had gone on with the run."""
        with self._lock:
            if self._server != server or self._served is None:
                raise self._none_for(server)
            return self._served

    def _none_for(self, server: str) -> StoreError:
        """Why that server has no node here. Under the lock."""
        return StoreError(self._why if self._server in (None, server) else OTHERS)

    def _end(self, why: str, served: Served | None = None, *, where_silent: bool = False) -> None:
        """End the node, for that reason, and all that is kept for the next server: where the node is still the one that
        is ``served``, if any is named, and where its server still has not asked, with ``where_silent``: then it is
        nobody's."""
        with self._lock:
            if served is not None and self._served is not served:
                return
            if where_silent:
                if monotonic() - self._asked <= SILENT_SECONDS:
                    return
                self._server = None
            before, self._served, self._why = self._served, None, why
            (left, self._left), (port, self._port) = (self._left, []), (self._port, None)
        if before is not None:
            before.end()
        for trainer in left:
            trainer.close()
        if port is not None:
            port.close()

    def _watch(self) -> None:
        looked = monotonic()
        while not self._stopped.wait(LOOK_SECONDS):
            looked = self._look(looked)

    def _look(self, looked: float) -> float:
        """Whether the server is silent, since somebody ``looked``; gives when this was. Time in which this process did
        not run counts for nothing: what its server asked it then has waited as long."""
        now = monotonic()
        with self._lock:
            self._asked = min(now, self._asked + max(0.0, now - looked - LOOK_SECONDS))
        silent = now - self._asked
        if silent > UNWANTED_SECONDS:
            os._exit(0)
        if silent > SILENT_SECONDS and (self._port is not None or self._left):  # it may not have got its port
            logger.warning("the server has not asked for %g s: it is gone, and trainers are let go", SILENT_SECONDS)
            self._end(SERVES_NONE, where_silent=True)
        return now


def _arrays(state: "State") -> "dict[str, np.ndarray]":
    return {name: tensor.contiguous().numpy() for name, tensor in state.items()}
