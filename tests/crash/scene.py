"""One run on PostgreSQL with a server and one that stands by, and one fault in it: who goes on, and with what."""

import faulthandler
import os
import queue
import re
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal, TypeVar

from flserver.settings.places import Address
from tests.crash.cable import Cable, Cut, Kind
from tests.crash.process import PORT, Patch, Server, serving
from tests.crash.script import Effect, Trainers
from tests.crash.verdict import Record, Uninterrupted, so_far
from tests.patience import PATIENCE
from tests.postgres_server import PostgresDatabase

Victim = Literal["server", "successor", "database", "silence", "reset"]
TAKES = b"flserver.writers AS w"
"""What a server says that takes a run."""
JOINING = re.compile("state: joining")
STANDS_BY = re.compile("standing by for run|taking it over")
TAKEN = re.compile("another server has taken (over )?run ")
UNHEARD, FROZEN = 3.0, "1000"
"""Less than what servers in the field have, and more than a busy machine lets one wait that is well: after how many
seconds a database that says nothing is given up, and after how many milliseconds it gives up a server that says nothing
in a transaction. A successor takes the run, and comes to its own end, in the time between the two."""
EPOCH = "SELECT epoch FROM flserver.writers"
STATUS = "SELECT status FROM v1_runs"

T = TypeVar("T")


@dataclass(frozen=True, order=True)
class Fault:
    """What comes to grief at ``cut``. A ``successor`` does while the server that it follows is alive and unheard."""

    victim: Victim
    cut: Cut

    def __str__(self) -> str:
        return f"{self.victim}, {self.cut}"


class Scene:
    """A run in ``record``, with its models below ``folder``. ``problems`` are what was wrong while it went on,
    ``seconds`` the time from the server's death until the next one let trainers in (None where that did not come), and
    ``pieces`` what that one had said by then, from when it took the run."""

    def __init__(self, record: PostgresDatabase, folder: Path, patch: Patch | None = None) -> None:
        self.trainers = Trainers()
        self.problems: list[str] = []
        self.seconds: float | None = None
        self.pieces: Counter[Kind] = Counter()
        self.servers: dict[str, Server] = {}
        self.cables: dict[str, Cable] = {}
        self.record, self.models = record, folder / "models"
        self._folder, self._patch = folder, patch
        self._orders: queue.Queue[Callable[[], object] | None] = queue.Queue()
        self._there = threading.Event()  # the database is
        self._there.set()
        self._died = 0.0
        self._hasty = False
        self._playing = False  # trainers are, and the standby knows of the run
        self._dismissed = False  # there is nothing to stand by for

    def play(self, fault: Fault | None, silenced: Cut | None = None, meant: Uninterrupted | None = None) -> None:
        """Until the first server has come to its end, and the one that stands by to its own, where it can go on. It is
        silenced at the second cut where it has a successor that dies.

        Raises AssertionError where that takes for ever.
        """
        target, self._hasty = self.record.server.port, fault is not None
        with ExitStack() as stack:
            cables = self.cables = {"server": Cable(target), "standby": Cable(target, begins=TAKES)}
            for name, how in (("server", "--resume"), ("standby", "--standby")):
                place = f"postgresql://postgres@127.0.0.1:{cables[name].port}/{self.record.name}"
                self.servers[name] = stack.enter_context(self.serving(place, how))
            if fault is not None:
                self._arrange(fault, silenced)
            for cable in cables.values():  # their threads come after the forks
                stack.enter_context(cable)
            player = threading.Thread(target=self._play, args=(meant,), name="player")
            player.start()
            try:
                while (order := self._orders.get(timeout=PATIENCE)) is not None:
                    order()
            except queue.Empty:
                for number in (signal.SIGUSR2, signal.SIGKILL):
                    for server in self.servers.values():
                        with suppress(ProcessLookupError):
                            os.kill(server.pid, number)
                    player.join(0.5)
                raise AssertionError("it hangs") from None
            finally:
                player.join()
        self._judge(fault)

    @property
    def effects(self) -> list[Effect]:
        """What the trainers saw."""
        return self.trainers.effects

    @property
    def log(self) -> str:
        """What the servers said."""
        return "".join(f"{name}: {line}" for name, server in self.servers.items() for line in server.lines)

    def serving(self, place: str, how: str) -> AbstractContextManager[Server]:
        """A server of the run."""
        return serving(self._folder, "--db", place, "--checkpoint-dir", str(self.models), how, patch=self._prepare)

    def _prepare(self) -> None:
        """In the server's process."""
        from flserver.store.postgres import session

        faulthandler.register(signal.SIGUSR2)  # where it hangs, the sweep asks where
        if self._hasty:
            session.UNHEARD = UNHEARD
            session.SETTINGS["idle_in_transaction_session_timeout"] = FROZEN
        if self._patch is not None:
            self._patch()

    def _arrange(self, fault: Fault, silenced: Cut | None) -> None:
        server, standby = self.cables["server"], self.cables["standby"]
        where = standby if fault.victim == "successor" else server
        where.cut = fault.cut
        match fault.victim:
            case "server":
                where.on_cut = lambda: self._kill("server")
            case "successor":
                server.cut, server.on_cut = silenced, lambda: server.hush(until_given_up=False)
                where.on_cut = lambda: (self._kill("standby"), server.heal())
            case "database":
                where.on_cut = self._lose_the_database
            case "silence":
                where.on_cut = lambda: server.hush(until_given_up=True)
            case "reset":
                where.on_cut = lambda: (self._hold_up_the_standby(), server.reset())

    def _kill(self, name: str) -> None:
        self._died = time.time()
        self._signal(name, signal.SIGKILL)

    def _hold_up_the_standby(self) -> None:
        """Once it stands by: before, it is waited for."""
        if self._playing:
            self._signal("standby", signal.SIGSTOP)

    def _signal(self, name: str, number: int) -> None:
        os.kill(self.servers[name].pid, number)

    def _lose_the_database(self) -> None:
        self._there.clear()
        self._orders.put(self._restart)

    def _restart(self) -> None:
        """On the thread that has started it, whose end it does not outlive."""
        self.record.server.kill()
        self.record.server.start()
        self._there.set()

    # --- the player's thread ------------------------------------------------------------------------------------------

    def _play(self, meant: Uninterrupted | None) -> None:
        server, standby = self.servers["server"], self.servers["standby"]
        try:
            code = self.through(server, standby)
            self._signal("standby", signal.SIGCONT)  # it was held up where the server had to be the first again
            if meant is not None:
                self.problems += self.looked_at(lambda record: list(so_far(record, meant, self.effects)))
            if code == 0 and self.looked_at(lambda record: record.ask(EPOCH)) != [(1,)]:
                self.problems.append("the server went on with a run that another one had taken")
            if self.looked_at(lambda record: record.ask(STATUS)) not in ([], [("completed",)]):
                self.through(standby)
            elif code == 0:
                standby.end()
            else:  # it may not even know of the run
                standby.kill()
                self._dismissed = True
        except Exception as error:
            self.problems.append(f"{type(error).__name__}: {error}")
        finally:
            self._orders.put(None)

    def through(self, server: Server, standby: Server | None = None) -> int:
        """Play through ``server`` to its end, once ``standby`` knows of its run. Its exit code."""
        if (port := server.port()) is not None and server.said(JOINING) is not None:
            self.pieces = Counter(self.cables["standby"].counts)
            if standby is None or standby.said(STANDS_BY) is not None:
                self._playing = True
                committed = [row[0] for row in self.looked_at(lambda record: record.rounds)]
                self.trainers.take_part(server, port, max(1, committed[-1] + 1 if committed else 1))
        return server.end()

    def looked_at(self, look: Callable[[Record], T]) -> T:
        """What ``look`` finds in the record, once the database is there."""
        import psycopg

        from flserver.store.postgres import engines

        while True:
            self._there.wait()
            with suppress(psycopg.OperationalError), engines.connect_for_reading(self.record.url()) as connection:
                return look(
                    Record(
                        Address(self.record.url()),
                        self.models,
                        lambda query, parameters: connection.execute(query.replace("?", "%s"), parameters or None),
                    )
                )

    def _judge(self, fault: Fault | None) -> None:
        """Which ends were not to be."""
        server, standby = self.servers["server"], self.servers["standby"]
        killed = {server: fault is not None and fault.victim == "server"}
        killed[standby] = self._dismissed or (fault is not None and fault.victim == "successor")
        for name, one in self.servers.items():
            begun = (JOINING if one is server else STANDS_BY).search(one.log)
            if "Traceback" in one.log or not (
                one.code == 0
                or (one.code == -signal.SIGKILL and killed[one])
                or (one is server and TAKEN.search(one.log))  # by the other
                or (fault is not None and not begun and one.code in (1, 2))
            ):
                self.problems.append(f"the {name} ended by itself with {one.code}: {one.log}")
        listens = [line for line in standby.lines if PORT.search(line)]
        if fault is not None and fault.victim == "server" and listens:
            self.seconds = datetime.strptime(listens[0][:23], "%Y-%m-%d %H:%M:%S,%f").timestamp() - self._died
