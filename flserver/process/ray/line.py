"""The line to a node on a Ray cluster: calls of its actor.

It is two threads: one asks for what the node has to say, the other tells it what the desk says, one batch at a time, so
that each comes in its order. What takes long, such as a large model's way or a sum, is waited for as long as the actor
answers meanwhile that it is there: that is a call of its own, for which it has a thread of its own.
"""

import logging
import threading
from collections import deque
from typing import Any

from flserver.clock import Deadline
from flserver.cluster.ray import ActorGone, Cluster
from flserver.errors import FlserverError
from flserver.ingest.place import Place
from flserver.process.nodes.children import STUCK_SECONDS
from flserver.process.ray.left import end

logger = logging.getLogger(__name__)

TAKE_SECONDS = 1.0  # that a node waits for something to say, before it says that there is nothing
SOON_SECONDS = 2.0  # that any other call may take before the node is asked whether it is there
GONE_SECONDS = 8.0  # that it may take to answer that: then it is gone
PREPARING_SECONDS = 120.0  # the same while it makes its model: all its threads wait while torch is loaded
CARRY_SECONDS = 600.0  # that a model may take from one machine to another


class Line:
    """One node: its actor, on which machine, and its place at the desk; ``server`` is whose it is."""

    def __init__(self, cluster: Cluster, actor: Any, machine: str, place: Place, server: str) -> None:
        self.actor, self.machine, self.place = actor, machine, place
        self._cluster, self._server = cluster, server
        self._carried: deque[tuple[int, Any]] = deque()

    def carry(self, number: int, reference: Any) -> None:
        """Give the node a model's bytes under that number, of which the desk tells it later. Waits for nothing."""
        self._carried.append((number, reference))

    def serve(self) -> None:
        """Carry what is said both ways, until the node has said goodbye. Raises ActorGone where it does not."""
        place, why = self.place, ""
        teller = threading.Thread(target=self._tell, name=f"line-out-{place.name}")
        teller.start()
        try:
            asked = self._asked("take", TAKE_SECONDS)
            while asked is not None:
                asked = self._hear(asked)
        except BaseException as error:
            why = str(error)
            end(self._cluster, self.actor, self._server)
            raise
        finally:
            if why or not place.leaving:
                place.gone(why or "it ended without a goodbye")
            teller.join()
            place.join()

    def _hear(self, asked: Any) -> Any | None:
        """Take the answer to what was asked; the next question, None at the end."""
        batch, over = self._answer(asked, TAKE_SECONDS + SOON_SECONDS)
        # While the desk does what was said, the next is on its way.
        asked = None if over else self._asked("take", TAKE_SECONDS)
        if batch:
            self.place.give(batch)
        if self.place.ending and not self.place.leaving:
            raise ActorGone("the desk has taken it for gone")
        return asked

    def _tell(self) -> None:
        """Tell the node what the desk says, until one of both has ended."""
        try:
            while not self.place.outbox.over:
                self._tell_next()
        except FlserverError as error:  # whoever asks it sees that too
            self.place.gone(str(error))
        except Exception as error:  # it is heard, but would be told nothing any more
            logger.exception("what is to be said to %s cannot be", self.place.name)
            self.place.gone(f"what it was to be told could not be said: {error!r}")

    def _tell_next(self) -> None:
        if batch := self.place.take(TAKE_SECONDS):
            while self._carried:  # before the node is told of them
                self._answer(self._asked("model", *self._carried.popleft()), most=CARRY_SECONDS)
            self._answer(self._asked("give", batch), most=STUCK_SECONDS)

    def _asked(self, method: str, *given: object) -> Any:
        return self._cluster.call(self.actor, method, self._server, *given)

    def _answer(self, reference: Any, soon: float = SOON_SECONDS, most: float | None = None) -> Any:
        """What the actor answers, for which it may take longer than ``soon`` (seconds) while it is there, but not than
        ``most``. Raises ActorGone, and what the actor raises of ours."""
        deadline = None if most is None else Deadline.after(most)
        while not self._cluster.answered(reference, soon):
            if deadline is not None and deadline.passed:
                raise ActorGone(f"it has taken nothing of what it was told for {most:g} s")
            patience = GONE_SECONDS if self.place.ready else PREPARING_SECONDS
            self._cluster.get(self._cluster.call(self.actor, "is_there"), patience)
        return self._cluster.get(reference, GONE_SECONDS)
