"""The ingest nodes of a run on a Ray cluster: actors on whichever of its machines, each over a line of calls.

To ``Run`` they are what a ``network.server.Server`` is: started, counted, closed. A line is two threads: one asks for
what the node has to say, the other tells it what the desk says, one batch at a time, so that each comes in its order. A
model goes into Ray's object store once, and from there once to each machine; at a round's end each node makes the new
model in one range of it, of what all nodes have there.
"""

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeAlias

from flserver.clock import monotonic
from flserver.errors import FlserverError, UsageError
from flserver.ingest.batches import raw_of
from flserver.ingest.desk import Desk
from flserver.ingest.engine import NodeGone
from flserver.ingest.place import Place
from flserver.network.listener import Listener
from flserver.process.node import described
from flserver.process.nodes import DEATH_SECONDS, DEATHS, END_SECONDS, NONE_LEFT
from flserver.process.provenance import digest_of_package
from flserver.process.ray_cluster import ActorGone, Cluster
from flserver.process.ray_node import RayNode
from flserver.settings import ServerSettings
from flserver.settings.hosts import with_port
from flserver.settings.recorded import from_anywhere

if TYPE_CHECKING:
    from flserver.aggregation import State

Tell: TypeAlias = Callable[[str], None]

logger = logging.getLogger(__name__)

TAKE_SECONDS = 1.0  # that a node waits for something to say, before it says that there is nothing
GONE_SECONDS = 10.0  # that it may take longer than that: then it is gone
BEGIN_SECONDS = 120.0  # that a process may take to start
REDUCE_SECONDS = 600.0
PAUSE_SECONDS = 1.0  # before another is started in the place of one that is gone


class Line:
    """One node: its actor, on which machine, and its place at the desk."""

    def __init__(self, actor: Any, machine: str, place: Place) -> None:
        self.actor, self.machine, self.place = actor, machine, place


class RayNodes:
    """``settings`` says how many, and on which cluster; ``listener`` keeps the port of this machine for them, ``desk``
    answers them, ``say`` tells the operator where they listen, ``end_run`` is told why when there is none any more.
    Raises UsageError."""

    least = 0  # bytes: what goes over a line are calls of Ray's too

    def __init__(
        self, settings: ServerSettings, listener: Listener, desk: Desk, run_id: str, say: Tell, end_run: Tell
    ) -> None:
        assert settings.ingest.ray_address is not None
        # Its folder is not that of a node's process.
        self._settings = replace(settings, values=from_anywhere(settings.values))
        self._listener, self._desk = listener, desk
        self._run_id, self._say, self._end_run = run_id, say, end_run
        self._cluster = Cluster(settings.ingest.ray_address, run_id)
        self._begins = threading.Lock()  # one node at a time: the first one of a machine has the port alone
        self._lock = threading.Lock()  # guards the seven below
        self._kept = settings.ingest.ingest  # slots in which there is a node, or will be
        self._lines: dict[str, Line] = {}
        self._started = 0
        self._deaths: deque[float] = deque(maxlen=DEATHS)
        self._model: tuple[int, Any] | None = None
        self._layout: State = {}
        self._closing = threading.Event()
        self._here, self._code = "", digest_of_package()
        self._threads = [
            threading.Thread(target=self._keep, args=(slot,), name=f"ray-node-{slot}")
            for slot in range(1, settings.ingest.ingest + 1)
        ]
        desk.engine = self

    def start(self) -> None:
        """Let trainers in: as many nodes as there are to be. What an earlier server of the run left is used again."""
        self._here = self._cluster.machine
        ours = {_name(slot) for slot in range(1, len(self._threads) + 1)}
        for name in self._cluster.names():
            if name not in ours and (actor := self._cluster.find(name)) is not None:
                self._cluster.kill(actor)
        for thread in self._threads:
            thread.start()

    @property
    def open_connections(self) -> int:
        """How many connections are being served."""
        with self._lock:
            return sum(line.place.open_connections for line in self._lines.values())

    @property
    def accepting(self) -> bool:
        """Whether there is a node, or may be soon."""
        with self._lock:
            return bool(self._lines) or any(thread.is_alive() for thread in self._threads)

    def stop_accepting(self) -> None:
        """Nobody is let in any more: ``close`` follows, which tells the nodes."""
        self._closing.set()

    def close(self, grace: float) -> None:
        """Give the sessions ``grace`` seconds to say goodbye, then end those that are left, and wait for all."""
        self.stop_accepting()
        self._desk.close(grace, END_SECONDS)
        for thread in self._threads:
            if thread.ident is not None:
                thread.join()
        for name in self._cluster.names():
            if (actor := self._cluster.find(name)) is not None:
                self._cluster.kill(actor)
        self._cluster.leave()
        self._listener.close()

    # --- one node ----------------------------------------------------------------------------------------------------

    def _keep(self, slot: int) -> None:
        """Have a node in this slot until the end, or until that is no use; then, where no slot has one, end the run."""
        self._keep_serving(slot)
        with self._lock:
            self._kept -= 1
            none = not self._kept
        if none and not self._closing.is_set():
            self._end_run(NONE_LEFT)

    def _keep_serving(self, slot: int) -> None:
        while not self._closing.is_set():
            try:
                self._serve(slot)
            except FlserverError as error:
                if self._closing.is_set():
                    return
                logger.warning("%s is gone: %s", _name(slot), error)
                if self._too_often():
                    logger.error("%d nodes went within %g s: none is started in their place", DEATHS, DEATH_SECONDS)
                    return
                self._closing.wait(PAUSE_SECONDS)
            except Exception:
                logger.exception("%s cannot be served", _name(slot))
                return

    def _too_often(self) -> bool:
        with self._lock:
            self._deaths.append(monotonic())
            return len(self._deaths) == DEATHS and self._deaths[-1] - self._deaths[0] < DEATH_SECONDS

    def _serve(self, slot: int) -> None:
        """Find or start the node of this slot, and speak with it to its end. Raises ActorGone, and UsageError where it
        cannot be a node of this run."""
        actor, about = self._actor(slot)
        line = self._begin(actor, about)
        name, place = line.place.name, line.place
        teller = threading.Thread(target=self._tell, args=(line,), name=f"line-out-{name}")
        teller.start()
        why = ""
        try:
            over, asked = False, actor.take.remote(TAKE_SECONDS)
            while not over:
                batch, over = self._cluster.get(asked, TAKE_SECONDS + GONE_SECONDS)
                if not over:  # while the desk does what was said, the next is on its way
                    asked = actor.take.remote(TAKE_SECONDS)
                if batch:
                    place.give(batch)
                if place.ending and not place.leaving:
                    raise ActorGone("the desk has taken it for gone")
        except BaseException as error:
            why = str(error)
            self._cluster.kill(actor)
            raise
        finally:
            if why or not place.leaving:
                place.gone(why or "it ended without a goodbye")
            teller.join()
            place.join()
            with self._lock:
                del self._lines[name]

    def _actor(self, slot: int) -> tuple[Any, dict[str, Any]]:
        """A process for the node: one that an earlier server left and that answers, else a new one."""
        found = self._cluster.find(_name(slot))
        if found is not None:
            try:
                about = self._cluster.get(found.where.remote(), GONE_SECONDS)
                if about["code"] == self._code:
                    return found, about
            except ActorGone as error:
                logger.debug("%s of an earlier server: %s", _name(slot), error)
            self._cluster.kill(found)
        made = self._cluster.make(RayNode, _name(slot))
        try:
            about = self._cluster.get(made.where.remote(), BEGIN_SECONDS)
            if about["code"] != self._code:
                raise UsageError(f"the machine {about['host']} has other sources of flserver than this one")
            if not about["tokens"]:
                raise UsageError(f"the machine {about['host']} is in the cluster without tokens (RAY_AUTH_MODE=token)")
        except BaseException:
            self._cluster.kill(made)
            raise
        return made, about

    def _begin(self, actor: Any, about: dict[str, Any]) -> Line:
        machine = about["machine"]
        with self._begins:
            with self._lock:
                self._started += 1
                name = f"node-{self._started}"
                beside = machine == self._here or any(line.machine == machine for line in self._lines.values())
            host, port = (
                self._listener.address if machine == self._here else (about["host"], self._settings.network.server_port)
            )
            what = described(self._settings, self._run_id, name)
            begun = self._cluster.get(actor.begin.remote(what, host, port, beside), BEGIN_SECONDS)
            if "error" in begun:
                raise UsageError(begun["error"])
            line = Line(actor, machine, self._desk.open(name))
            with self._lock:
                self._lines[name] = line
                if self._model is not None:
                    actor.model.remote(*self._model)
        place = with_port(begun["host"], begun["port"])
        self._say(f"{name} (process {about['pid']}): listening for trainers on {place}")
        return line

    def _tell(self, line: Line) -> None:
        """Tell the node what the desk says, until one of both has ended."""
        place = line.place
        try:
            while True:
                if batch := place.take(TAKE_SECONDS):
                    self._cluster.get(line.actor.give.remote(batch), GONE_SECONDS)
                elif place.outbox.over:
                    return
        except FlserverError as error:  # whoever asks it sees that too
            place.gone(str(error))

    # --- models and sums ---------------------------------------------------------------------------------------------

    def carry(self, number: int, state: "State") -> None:
        """See :class:`Engine`: a model's bytes for all nodes, in Ray's object store."""
        import numpy as np

        reference = self._cluster.put([np.frombuffer(blob, dtype=np.uint8) for blob in raw_of(state)])
        with self._lock:
            self._model = number, reference
            self._layout = {name: tensor.to("meta") for name, tensor in state.items()}
            lines = list(self._lines.values())
        for line in lines:
            line.actor.model.remote(number, reference)

    def brings(self, number: int, name: str) -> bool:
        """See :class:`Engine`: each has it from there."""
        return True

    def finish(self, round: int, attempt: int, names: Sequence[str], turns: int) -> "State":
        """See :class:`Engine`. Raises NodeGone."""
        from flserver.aggregation.ranges import put, ranges, unset_like
        from flserver.models.state import tensor_over

        with self._lock:
            lines, layout = [(name, self._lines.get(name)) for name in names], self._layout
        actors = [(name, line.actor) for name, line in lines if line is not None]
        if gone := [name for name, line in lines if line is None]:
            raise NodeGone(gone[0], "it went before its part was asked for")
        count = len(actors) * turns
        parts, whole = ranges(layout, count), unset_like(layout)
        for first in range(0, len(parts), len(actors)):
            made = []
            for number in range(first, min(first + len(actors), len(parts))):
                makes = actors[number - first][1]
                cuts = [actor.cut.remote(round, attempt, number, count) for _, actor in actors if actor is not makes]
                made.append(makes.made.remote(round, attempt, number, count, *cuts))
            found = self._all_of(made, actors)
            for within, arrays in zip(parts[first:], found, strict=False):
                put(whole, within, {name: tensor_over(array).view(whole[name].dtype) for name, array in arrays.items()})
        return whole

    def _all_of(self, asked: Sequence[Any], actors: Sequence[tuple[str, Any]]) -> list[Any]:
        try:
            return self._cluster.get_all(asked, REDUCE_SECONDS)
        except ActorGone as error:
            for name, actor in actors:
                try:
                    self._cluster.get(actor.is_there.remote(), GONE_SECONDS)
                except ActorGone as gone:
                    raise NodeGone(name, str(gone)) from error
            raise


def _name(slot: int) -> str:
    """The name of a slot's actor, among those of the run."""
    return f"node-{slot}"
