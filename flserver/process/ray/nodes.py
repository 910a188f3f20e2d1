"""The ingest nodes of a run on a Ray cluster: actors on whichever of its machines, each with a line of its own.

To ``Run`` they are what a ``network.server.Server`` is: started, counted, closed.
"""

import logging
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeAlias
from uuid import uuid4

from flserver.clock import Deadline, monotonic
from flserver.cluster.ray import ActorGone, Cluster
from flserver.errors import FlserverError, UsageError
from flserver.ingest.desk import Desk
from flserver.ingest.place import ORDERLY
from flserver.network.listener import Listener
from flserver.process.nodes.about import About
from flserver.process.nodes.children import END_SECONDS
from flserver.process.nodes.restarts import NONE_LEFT, TOO_OFTEN, RestartBudget
from flserver.process.nodes.terms import Terms
from flserver.process.ray.left import Answers, LeftOver, Staying, end, take_over
from flserver.process.ray.line import GONE_SECONDS, Line
from flserver.process.ray.models import Lines, RayModels
from flserver.process.ray.node import RayNode
from flserver.settings.hosts import with_port
from flserver.settings.recorded import from_anywhere
from flserver.sources import digest_of_package

Tell: TypeAlias = Callable[[str], None]

logger = logging.getLogger(__name__)

BEGIN_SECONDS = 120.0  # that a process may take to start
LOOK_SECONDS = 0.5  # between two looks whether the run is over, while one starts
RUN_OVER = "the run is over"
PAUSE_SECONDS = 1.0  # before another is started in the place of one that is gone


class RayNodes:
    """``terms`` say how many, and on which cluster; ``listener`` keeps the port of this machine for them, ``desk``
    answers them, ``say`` tells the operator where they listen, ``end_run`` is told why when there is none any more;
    ``answers`` gives those on record; those of an earlier server are ``staying`` until ``start``. Raises UsageError."""

    def __init__(
        self,
        terms: Terms,
        listener: Listener,
        desk: Desk,
        say: Tell,
        end_run: Tell,
        answers: Answers,
        staying: Staying | None = None,
    ) -> None:
        settings = terms.settings
        assert settings.ingest.ray_address is not None
        # Its folder is not a node's.
        self._terms = replace(terms, settings=replace(settings, values=from_anywhere(settings.values)))
        self._listener, self._desk = listener, desk
        self._say, self._end_run = say, end_run
        self._cluster = Cluster(settings.ingest.ray_address, terms.run_id)
        self._begins = threading.Lock()  # one node at a time: the first one of a machine has the port alone
        self._lines = Lines()
        self._lock = threading.Lock()  # guards the two below: what begins is told of the end, or does not begin
        self._budget = RestartBudget(settings.ingest.ingest)
        self._closing = threading.Event()
        self._here, self._code, self._own = "", digest_of_package(), uuid4().hex
        self._left, self._answers, self._staying = LeftOver(), answers, staying
        self._threads = [
            threading.Thread(target=self._keep, args=(slot,), name=f"ray-node-{slot}", daemon=True)
            for slot in range(1, settings.ingest.ingest + 1)
        ]
        desk.engine = RayModels(self._cluster, self._lines, self._own)

    def start(self) -> None:
        """Let trainers in: as many nodes as there are to be, of them those that an earlier server of the run left."""
        try:
            self._here = self._cluster.machine
            self._cluster.watch(self._end_run)
            ours = set(map(_name, range(1, len(self._threads) + 1)))
            self._left = take_over(self._cluster, self._own, ours, self._code, self._answers)
            if self._staying is not None:
                self._staying.end()
            for thread in self._threads:
                thread.start()
        except BaseException:  # nobody calls ``close``, and what watches the head would keep the process
            self._closing.set()
            if self._staying is not None:
                self._staying.close()
            self._cluster.leave()
            raise

    @property
    def open_connections(self) -> int:
        """How many connections are being served."""
        return sum(line.place.open_connections for line in self._lines.now.values())

    @property
    def serving(self) -> int:
        """How many nodes there are."""
        return sum(not line.place.ending for line in self._lines.now.values())

    @property
    def accepting(self) -> bool:
        """Whether there is a node, or may be soon."""
        return bool(self._lines.now) or any(thread.is_alive() for thread in self._threads)

    def stop_accepting(self) -> None:
        """Nobody is let in any more: ``close`` follows, which tells the nodes."""
        with self._lock:
            self._closing.set()

    def close(self, grace: float) -> None:
        """Give the sessions ``grace`` seconds to say goodbye, then end those that are left, and wait for all."""
        self._closing.set()
        try:
            self._desk.close(grace, END_SECONDS)
            for thread in self._threads:
                while thread.is_alive() and not self._cluster.is_gone:
                    thread.join(PAUSE_SECONDS)
            for name in self._cluster.names():
                try:
                    actor = self._cluster.find(name)
                except ActorGone as error:
                    logger.warning("%s is left: %s", name, error)
                    continue
                if actor is not None:
                    end(self._cluster, actor, self._own)
        finally:
            if self._staying is not None:
                self._staying.close()
            self._cluster.leave()
            self._listener.close()

    # --- one node ----------------------------------------------------------------------------------------------------

    def _keep(self, slot: int) -> None:
        """Have a node in this slot until the end, or until that is no use; then, where no slot has one, end the run."""
        self._keep_serving(slot)
        with self._lock:
            none = self._budget.give_up()
        if none and not self._closing.is_set():
            self._end_run(NONE_LEFT)

    def _keep_serving(self, slot: int) -> None:
        while not self._closing.is_set():
            try:
                self._serve(slot)
            except Exception as error:
                if self._closing.is_set():
                    return
                if isinstance(error, FlserverError):
                    logger.warning("%s is gone: %s", _name(slot), error)
                else:
                    logger.exception("%s cannot be served", _name(slot))
                with self._lock:
                    again = self._budget.allows(slot, monotonic())
                if not again:
                    logger.error("slot %d: %s", slot, TOO_OFTEN)
                    return
                self._closing.wait(PAUSE_SECONDS)

    def _serve(self, slot: int) -> None:
        """Find or start the node of this slot, and speak with it to its end. Raises ActorGone, and UsageError where it
        cannot be a node of this run."""
        actor, about = self._actor(slot)
        line = self._begin(slot, actor, about)
        try:
            line.serve()
        finally:
            self._lines.remove(line)

    def _actor(self, slot: int) -> tuple[Any, dict[str, Any]]:
        """A process for the node: one that an earlier server left and that answers, else a new one."""
        found = self._cluster.find(_name(slot))
        if found is not None:
            try:
                about = self._cluster.get(self._cluster.call(found, "where"), GONE_SECONDS)
                if about["code"] == self._code and self._terms.agree_with(about["own_code"]):
                    return found, about
            except ActorGone as error:
                logger.debug("%s of an earlier server: %s", _name(slot), error)
            self._cluster.kill(found)
        made = self._cluster.make(RayNode, _name(slot))
        try:
            about = self._started_by(self._cluster.call(made, "where"))
            if about["code"] != self._code:
                raise UsageError(f"the machine {about['host']} has other sources of flserver than this one")
            if not about["tokens"]:
                raise UsageError(f"the machine {about['host']} is in the cluster without tokens (RAY_AUTH_MODE=token)")
        except BaseException:
            self._cluster.kill(made)
            raise
        return made, about

    def _begin(self, slot: int, actor: Any, about: dict[str, Any]) -> Line:
        machine = about["machine"]
        with self._begins:
            name = self._desk.named.new()
            beside = machine in (self._here, *self._left.machines)
            beside = beside or any(line.machine == machine for line in self._lines.now.values())
            there = about["host"], self._terms.settings.network.server_port
            host, port = self._listener.address if machine == self._here else there
            given = self._terms.told(name), host, port, beside, self._own, list(self._left.idle)
            begun = self._started_by(self._cluster.call(actor, "begin", *given))
            if "error" in begun:
                raise UsageError(begun["error"])
            started = About(**about["about"]).starts(name, slot, begun["host"], begun["port"])
            # Not under the lock, for which the end of the run may wait: it may wait for room in the record.
            place = self._desk.open(name, started)
            line = Line(self._cluster, actor, machine, place, self._own)
            with self._lock:
                closing = self._closing.is_set()
                if not closing:
                    self._lines.add(line)
            if closing:  # nobody else knows of it
                place.gone(ORDERLY)
                place.join()
                raise ActorGone(RUN_OVER)
        where = with_port(begun["host"], begun["port"])
        self._say(f"{name} (process {about['pid']}): listening for trainers on {where}")
        return line

    def _started_by(self, reference: Any) -> Any:
        """What a node answers that is being started. Raises ActorGone, also where the run ends meanwhile."""
        deadline = Deadline.after(BEGIN_SECONDS)
        while not self._cluster.answered(reference, LOOK_SECONDS):
            if self._closing.is_set():
                raise ActorGone(RUN_OVER)
            if deadline.passed:
                raise ActorGone(f"it has not begun within {BEGIN_SECONDS:g} s")
        return self._cluster.get(reference, GONE_SECONDS)


def _name(slot: int) -> str:
    """The name of a slot's actor, among those of the run."""
    return f"node-{slot}"
