"""The ingest nodes of this machine: so many processes that share the socket of the server, each over a line of its own.

To ``Run`` they are what a ``network.server.Server`` is: started, counted, closed.
"""

import logging
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from functools import partial

from flserver.clock import monotonic
from flserver.errors import StartError
from flserver.ingest.desk import Desk
from flserver.ingest.lines import LineEnd, send_first, set_patience
from flserver.ingest.place import ORDERLY, Place
from flserver.network.listener import Listener
from flserver.process.nodes.about import About
from flserver.process.nodes.called import CalledNodes
from flserver.process.nodes.calls import Caller
from flserver.process.nodes.ending import Ending
from flserver.process.nodes.restarts import NONE_LEFT, TOO_OFTEN, RestartBudget
from flserver.process.nodes.terms import Terms
from flserver.process.signals import unheard

logger = logging.getLogger(__name__)

END_SECONDS = 5.0  # beyond the sessions' grace, that a node has to end
# That a node may take nothing of what it is told, or not say that it is there, while it makes a sum or a model.
STUCK_SECONDS = 60.0
LOOK_SECONDS = 10.0  # between two times that it is asked


class Child:
    """One node: its process, its place at the desk, its line, and what calls it."""

    def __init__(self, process: "subprocess.Popen[bytes]", place: Place, line: LineEnd, caller: Caller) -> None:
        self.process, self.place, self.line, self.caller = process, place, line, caller
        self.ending = Ending(process)
        self.noticed = False  # that it is gone: then whoever comes next ends it, not before

    def end(self) -> None:
        """Wait for its end, which has begun, and take what it had back. A process that does not end is killed, and
        before its line is closed: what is still to be said may wait for one that takes nothing."""
        try:
            self.process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.caller.close()
        self.line.close()
        self.place.join()


class Nodes:
    """``terms`` say how many, ``desk`` answers them; ``end_run`` is told why, when there is none any more."""

    def __init__(self, terms: Terms, listener: Listener, desk: Desk, end_run: Callable[[str], None]) -> None:
        self._end_run = end_run
        self._terms, self._listener, self._desk = terms, listener, desk
        self._count = terms.settings.ingest.ingest
        self._lock = threading.Lock()  # guards all below
        self._children: list[Child] = []
        self._budget = RestartBudget(self._count)
        self._closing = False
        self._engine = desk.engine = CalledNodes(lambda: desk.stops_at)
        self._over = threading.Event()
        self._looks = threading.Thread(target=self._look, name="node-looks")
        self._made_of: Mapping[str, str] = {}  # the sources of flserver, as they were when the first one began

    def start(self) -> None:
        """Let trainers in: as many nodes as there are to be. Raises StartError where one cannot be started."""
        try:
            for slot in range(1, self._count + 1):
                self._begin(slot)
            self._looks.start()
        except StartError:
            self.close(0.0)
            raise
        except (OSError, RuntimeError) as error:
            self.close(0.0)
            raise StartError(f"--ingest: a process cannot be started: {_why(error)}") from error

    def _look(self) -> None:
        """One that hangs says nothing, and the system takes what it is told: it is asked whether it is there."""
        while not self._over.wait(LOOK_SECONDS):
            with self._lock:
                callers = [child.caller for child in self._children]
            for caller in callers:
                caller.look()

    @property
    def open_connections(self) -> int:
        """How many connections are being served."""
        with self._lock:
            return sum(child.place.open_connections for child in self._children if not child.place.ending)

    @property
    def serving(self) -> int:
        """How many nodes have begun, and are there."""
        with self._lock:
            return sum(child.place.heard and not child.place.ending for child in self._children)

    @property
    def accepting(self) -> bool:
        """Whether there is a node, or is soon."""
        with self._lock:
            return any(not child.place.ending for child in self._children)

    def stop_accepting(self) -> None:
        """Nobody is let in any more: ``close`` follows, which tells the nodes."""
        with self._lock:
            self._closing = True

    def close(self, grace: float) -> None:
        """Give the sessions ``grace`` seconds to say goodbye, then end those that are left, and wait for all."""
        self.stop_accepting()
        self._over.set()
        if self._looks.ident is not None:
            self._looks.join()
        with self._lock:
            children = list(self._children)
        for child in children:
            if not child.place.heard:  # it is being started still, and serves nobody
                child.process.kill()
        self._desk.close(grace, END_SECONDS)
        for child in children:
            child.end()
        self._engine.close()
        self._listener.close()

    def _begin(self, slot: int) -> None:
        with self._lock:
            closing = self._closing
        if closing:
            return
        about = About.of_this()
        self._made_of = self._made_of or about.code
        if about.code != self._made_of:  # it would not understand this server, nor be understood
            raise StartError("flserver's own files have changed since this server began: resume the run with them")
        name = self._desk.named.new()
        with ExitStack() as undo:  # also where the run has ended meanwhile: nobody else knows of it
            process, ours, calls = self._process()
            for ends in (ours.close, calls.close, process.wait, process.kill):
                undo.callback(ends)
            # Not under the lock, which who looks at the nodes takes: it may wait for room in the record.
            place = self._desk.open(name, replace(about, pid=process.pid).starts(name, slot, *self._listener.address))
            undo.callback(place.join)
            undo.push(partial(_not_begun, place))
            # Nor this: a roster may be longer than what the system takes before the process is there to read it.
            set_patience(ours, STUCK_SECONDS)
            send_first(ours, self._terms.told(name))
            with self._lock:
                if not self._closing:
                    self._connect(process, place, ours, calls, undo)
                    undo.pop_all()
                    logger.info("%s serves trainers, process %d", name, process.pid)

    def _process(self) -> "tuple[subprocess.Popen[bytes], socket.socket, socket.socket]":
        """One for a node, and the server's ends of its line and of what it is called by. Raises OSError."""
        (ours, its), (calls, called) = socket.socketpair(), socket.socketpair()
        with its, called:
            passed = [one.fileno() for one in (self._listener.socket, its, called)]
            command = [sys.executable, "-m", "flserver.process.nodes.child", *map(str, passed)]
            try:
                # A process begins with the signals blocked that are where it is started: what a terminal or a
                # service manager tells all must not end it before it has come to ignore that, a second later.
                with unheard():
                    return subprocess.Popen(command, pass_fds=passed, stdin=subprocess.DEVNULL), ours, calls
            except OSError:
                ours.close()
                calls.close()
                raise

    def _connect(
        self,
        process: "subprocess.Popen[bytes]",
        place: Place,
        ours: socket.socket,
        calls: socket.socket,
        undo: ExitStack,
    ) -> None:
        """Under the lock. What it begins is ended by ``undo``, without the lock, where it cannot do all of it."""
        end = LineEnd(
            ours,
            place,
            place.name,
            ended=lambda why: self._ended(place, why),
            over=lambda: place.outbox.over,
            patience=STUCK_SECONDS,
        )
        place.cut = end.cut
        lost = partial(_lost, place)
        caller = Caller(calls, place.name, STUCK_SECONDS, lost=lost, ended=end.cut)  # none is mute and still counted
        child = Child(process, place, end, caller)
        place.explain = child.ending.explain
        undo.callback(end.close)
        undo.push(partial(_not_begun, place))  # before the line is closed: it carries until its outbox is
        undo.callback(caller.close)
        undo.callback(self._forget, child)
        caller.start()
        self._engine.add(caller)
        self._children.append(child)
        end.start()  # here, for whoever finds it among the children may end it

    def _forget(self, child: Child) -> None:
        with self._lock:
            self._children = [one for one in self._children if one is not child]
        self._engine.remove(child.caller)

    def _ended(self, place: Place, why: str) -> None:
        """Called on the thread that read the line's end: another node comes in the place of one that is gone, also
        where the desk took it for that before."""
        if place.leaving:
            return
        with self._lock:
            closing = self._closing
        # One that had nobody, and ends while all are about to, is none that was lost.
        place.gone(ORDERLY if closing and not place.open_connections else why)
        if closing:
            return  # all are ended, and none comes
        with self._lock:
            here = next(child for child in self._children if child.place is place)
            self._engine.remove(here.caller)
            gone = [child for child in self._children if child.noticed]
            here.noticed = True
            self._children = [child for child in self._children if child not in gone]
            again = self._budget.allows(place.slot, monotonic())
        here.ending.how()  # before it is ended here
        here.process.kill()  # it may have lost no more than its line; others accept from its socket
        place.join()
        self._desk.make_durable()  # so that the loss is told of before the one that comes
        for child in gone:  # those before: this thread is one of this one's
            child.end()
        if again:
            try:
                return self._begin(place.slot)
            except (OSError, RuntimeError, StartError) as error:
                logger.error("no node can be started in the place of %s: %s", place.name, _why(error))
        else:
            logger.error("slot %d, where %s was: %s", place.slot, place.name, TOO_OFTEN)
        with self._lock:
            none = self._budget.give_up()
        if none:
            self._end_run(NONE_LEFT)


def _lost(place: Place, why: str) -> None:
    if not place.leaving:
        place.gone(why)


def _not_begun(place: Place, kind: object, error: BaseException | None, where: object) -> None:
    place.gone(ORDERLY if error is None else f"it could not begin: {error}")


def _why(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
