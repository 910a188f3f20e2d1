"""One server's part of a node's process on a Ray cluster: what it began there, and what ends with it."""

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from flserver.ingest.inbox import Inbox
from flserver.ingest.node import Node
from flserver.network.inherited import InheritedTrainer
from flserver.process.nodes.child import SharedListener

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Served:
    """A node, where it listens, and what it was told and has still to do."""

    node: Node
    listener: SharedListener
    told: Inbox = field(default_factory=Inbox)

    def hear(self, ended: Callable[[str], None]) -> None:
        """On a thread of its own, do what the node is told. Where it cannot be done, ``ended`` is told why."""
        threading.Thread(target=self._hear, args=(ended,), name="node-hears", daemon=True).start()

    def _hear(self, ended: Callable[[str], None]) -> None:
        while (batch := self.told.take()) is not None:
            try:
                self.node.give(batch)
            except Exception as error:
                logger.exception("what the server said could not be taken")
                return ended(f"what it was told could not be taken: {error!r}")
            del batch  # a model may be in it

    def end(self) -> None:
        """Nobody asks for it any more."""
        self.told.close()
        self.node.lost()
        self.node.join()
        self.listener.free()

    def hand_on(self, grace: float) -> list[InheritedTrainer]:
        """The same, but for the trainers that the run's next server goes on with; see ``Node.hand_on``."""
        self.told.close()
        left = self.node.hand_on(grace)
        self.listener.free()
        return left
