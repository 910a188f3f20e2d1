"""An ingest node as an actor of a Ray cluster, on whichever of its machines.

The process outlives the server that it serves. While no server asks for what it has to say, it lets nobody in; the
run's next server begins it anew, with torch in memory. One that nobody wants any more ends by itself.
"""

import json
import logging
import os
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from flserver.clock import monotonic
from flserver.errors import FlserverError, StoreError, one_line
from flserver.ingest.node import Node
from flserver.network.listener import Listener, Reservation
from flserver.process.node import log_as, make_model
from flserver.process.provenance import digest_of_package
from flserver.process.resources import allow_descriptors, capacity_of, first_limits, limit_arenas
from flserver.settings import server_settings

if TYPE_CHECKING:
    import numpy as np

    from flserver.aggregation import State

LOOK_SECONDS = 1.0
SILENT_SECONDS = 15.0  # without a server that asks: then it is gone
UNWANTED_SECONDS = 600.0  # the same: then nobody goes on with the run soon

logger = logging.getLogger(__name__)


class RayNode:
    """What Ray makes of a node. Its methods are called on several threads."""

    def __init__(self) -> None:
        allow_descriptors()
        limit_arenas()
        self._lock = threading.Lock()  # guards the two below, while they change
        self._node: Node | None = None
        self._reserved: Reservation | None = None
        self._asked = monotonic()
        self._code = digest_of_package()
        self._stopped = threading.Event()
        # Ray ends this process without asking: nobody joins a thread in it.
        threading.Thread(target=self._watch, name="node-watch", daemon=True).start()

    def where(self) -> dict[str, Any]:
        """The machine, as Ray knows it and by its address there; the process, and of which sources it is."""
        import ray

        context = ray.get_runtime_context()
        return {
            "machine": context.get_node_id(),
            "host": ray.util.get_node_ip_address(),
            "pid": os.getpid(),
            "tokens": os.environ.get("RAY_AUTH_MODE") == "token",
            "code": self._code,
        }

    def begin(self, described: bytes, host: str, port: int, beside: bool) -> dict[str, Any]:
        """Be a node anew, of what ``process.node.described`` tells, that listens there, ``beside`` others or as the
        first one on its machine. Gives ``host`` and ``port``, or why not as ``error``."""
        told: dict[str, Any] = json.loads(described)
        settings = server_settings(told["values"])
        self._end()
        log_as(settings, told["name"])
        try:
            with self._lock:
                if not beside:
                    self._reserved = Reservation(host, port)
                    host, port = self._reserved.address
                listener = Listener(host, port, beside=True)
                self._node = node = Node(
                    settings,
                    listener,
                    run_id=told["run_id"],
                    limits=first_limits(settings.network),
                    capacity=capacity_of(settings.network),
                    receive_memory=settings.network.receive_memory // settings.ingest.ingest,
                )
        except FlserverError as error:
            return {"error": one_line(error)}
        self._asked = monotonic()
        node.start()
        threading.Thread(target=make_model, args=(node, settings, told["run_id"]), name="model", daemon=True).start()
        host, port = listener.address
        return {"host": host, "port": port}

    # --- the line ----------------------------------------------------------------------------------------------------

    def take(self, seconds: float) -> tuple[bytes, bool]:
        """What the node has to say, and whether nothing follows."""
        self._asked, node = monotonic(), self._served()
        batch = node.take(seconds)
        self._asked = monotonic()
        return batch, not batch and node.asking.outbox.over

    def give(self, batch: bytes) -> None:
        """What the desk says."""
        self._served().give(batch)

    def model(self, number: int, tensors: "Sequence[np.ndarray]") -> None:
        """A model's bytes, which lie where Ray has put them, once for all nodes of a machine."""
        self._served().model(number, [memoryview(tensor) for tensor in tensors])  # type: ignore[arg-type]

    def is_there(self) -> bool:
        """Whether it answers."""
        return True

    # --- sums --------------------------------------------------------------------------------------------------------

    def cut(self, round: int, attempt: int, number: int, count: int) -> "dict[str, np.ndarray]":
        """What it has of the attempt in one of ``count`` ranges."""
        return _arrays(self._served().making.cut(round, attempt, number, count))

    def made(
        self, round: int, attempt: int, number: int, count: int, *others: "dict[str, np.ndarray]"
    ) -> "dict[str, np.ndarray]":
        """The new model in one of ``count`` ranges: of what it has of the attempt, and of what ``others`` have there.
        A tensor is its bytes."""
        import torch

        from flserver.models.state import tensor_over

        theirs = ({name: tensor_over(array) for name, array in other.items()} for other in others)
        made = self._served().making.made(round, attempt, number, count, theirs)
        return {name: tensor.view(-1).view(torch.uint8).numpy() for name, tensor in made.items()}

    # --- its end -----------------------------------------------------------------------------------------------------

    def stop(self) -> None:
        """End what it serves, for whoever has it without a process of its own."""
        self._stopped.set()
        self._end()

    def _served(self) -> Node:
        with self._lock:
            if self._node is None:
                raise StoreError("this node serves no run")
            return self._node

    def _end(self) -> None:
        with self._lock:
            node, self._node = self._node, None
            reserved, self._reserved = self._reserved, None
        if node is not None:
            node.lost()
            node.join()
        if reserved is not None:
            reserved.close()

    def _watch(self) -> None:
        while not self._stopped.wait(LOOK_SECONDS):
            silent = monotonic() - self._asked
            if silent > UNWANTED_SECONDS:
                os._exit(0)
            if silent > SILENT_SECONDS and self._node is not None:
                logger.warning("the server has not asked for %g s: it is gone, and trainers are let go", SILENT_SECONDS)
                self._end()


def _arrays(state: "State") -> "dict[str, np.ndarray]":
    return {name: tensor.contiguous().numpy() for name, tensor in state.items()}
