"""The small run over nodes on a Ray cluster, its record on PostgreSQL, with a second server that stands by: the server
or a node is killed at one thing that they say to each other."""

import os
import re
import signal
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar, get_args

from flserver.settings.places import Address
from tests.crash.at_nodes import ALL, NODES, OPTIONS, mixed
from tests.crash.crowd import Crowd
from tests.crash.process import PORT, Patch, Server, serving
from tests.crash.said import MOMENTS, Counted, Victim, Word
from tests.crash.verdict import Record, Uninterrupted, after_all, files_of
from tests.e2e.harness import free_port
from tests.patience import PATIENCE
from tests.postgres_server import TEMPLATE, PostgresServer, at_head
from tests.ray_cluster import RayCluster

SILENCE = 20.0  # longer than a take-over: trainers are to stay
STANDS_BY = re.compile("standing by for run")
INHERITED = """SELECT COUNT(*) FROM v1_events WHERE type = 'ConnectionOpened'
    AND json_extract(payload, '$.inherited_from') IS NOT NULL"""

T = TypeVar("T")


@dataclass(frozen=True)
class Seen:
    """What came of a kill: ``problems`` is None where the run did not come to it; ``seconds`` from the server's death
    until the next one let trainers in, and how many of these had ``stayed``."""

    problems: list[str] | None
    seconds: float | None = None
    stayed: int = 0


class RaySweep:
    """The uninterrupted run, which the others are held against; ``within`` is how many seconds the one that stands by
    may take."""

    def __init__(self, cluster: RayCluster, postgres: PostgresServer, within: float) -> None:
        """Raises AssertionError where the run cannot be recorded."""
        self.cluster, self.postgres, self._within = cluster, postgres, within
        os.environ |= {"PGPASSWORD": postgres.password, "PGSSLMODE": "disable", "PGGSSENCMODE": "disable"}
        os.environ |= cluster.env
        self._meant: Uninterrupted | None = None
        with tempfile.TemporaryDirectory() as folder:
            tally = Path(folder, "tally")
            scene = Scene(self, Path(folder), lambda: _watch(None, tally), alone=True)
            scene.play()
            assert not scene.problems, (scene.problems, scene.log)
            assert scene.made is not None
            self._meant = scene.made
            self.said = Counter(tally.read_text(encoding="ascii").splitlines())

    def points(self) -> dict[str, list[Word]]:
        """Every point, in groups: whoever is killed, what is counted is what the server says and hears."""
        groups = {
            f"{victim} {moment} {line.split()[0]}": [
                Word(victim, line.split()[0], moment, number + 1) for number in range(count)
            ]
            for victim in get_args(Victim)
            for moment in MOMENTS
            for line, count in sorted(self.said.items())
            if moment.endswith(line.split()[1])
        }
        return mixed(groups)

    def seen(self, word: Word) -> Seen:
        """What comes of it."""
        with tempfile.TemporaryDirectory() as folder:
            died = Path(folder, "died")
            scene = Scene(self, Path(folder), lambda: _watch(word, None, died), meant=self._meant)
            try:
                scene.play()
            except Exception as error:
                scene.problems.append(f"{type(error).__name__}: {error}: {scene.log}")
            if not died.exists():
                return Seen(None)
            seconds = None
            if word.victim == "server" and scene.listened is not None:
                seconds = scene.listened - float(died.read_text(encoding="ascii"))
                if seconds > self._within:
                    scene.problems.append(f"the one that stood by let trainers in after {seconds:.1f} s")
            if scene.problems:
                scene.problems.append(scene.log)
            return Seen(scene.problems, seconds, scene.stayed)


class Scene:
    """One run. ``made`` is what it made, ``stayed`` how many connections another server went on with, ``listened`` when
    the one that stood by let trainers in."""

    def __init__(
        self,
        sweep: RaySweep,
        folder: Path,
        patch: Patch,
        *,
        alone: bool = False,
        meant: Uninterrupted | None = None,
    ) -> None:
        self._sweep, self._folder, self._patch, self._alone, self._meant = sweep, folder, patch, alone, meant
        self._record = sweep.postgres.create(sweep.postgres.template(TEMPLATE, at_head))
        self._over = threading.Event()
        self.crowd = Crowd(self._over, SILENCE)
        self.problems: list[str] = []
        self.servers: dict[str, Server] = {}
        self.made: Uninterrupted | None = None
        self.stayed = 0
        self.listened: float | None = None

    @property
    def log(self) -> str:
        """What the servers said."""
        return "".join(f"{name}: {line}" for name, server in self.servers.items() for line in server.lines)

    def play(self) -> None:
        """Until it has come to its end. Raises AssertionError where that takes for ever."""
        port = free_port()
        try:
            with ExitStack() as stack:
                server = self.servers["server"] = stack.enter_context(self._serving(port, "--resume", self._patch))
                if not self._alone:
                    self.servers["standby"] = stack.enter_context(self._serving(port, "--standby", None))
                hangs = threading.Timer(PATIENCE, self._give_up)
                hangs.start()
                try:
                    self._through(server, port)
                finally:
                    hangs.cancel()
                    hangs.join()
            self._judge()
        finally:
            self._record.drop()

    def _through(self, server: Server, port: int) -> None:
        for _ in range(NODES):
            server.said(PORT)
        standby = self.servers.get("standby")
        if standby is not None:
            standby.said(STANDS_BY)
        trainers = threading.Thread(target=self.crowd.take_part, args=(port,))
        trainers.start()
        code = server.end()
        if code != 0 and standby is not None:
            code = standby.end()
        self._over.set()
        trainers.join()
        if code != 0:
            self.problems.append(f"nobody came to the run's end: {code}")
        elif standby is not None:
            standby.end()

    def _give_up(self) -> None:
        self._over.set()
        for server in self.servers.values():
            if server.code is None:
                os.kill(server.pid, signal.SIGKILL)

    def _serving(self, port: int, how: str, patch: Patch | None) -> AbstractContextManager[Server]:
        place = (
            "--db",
            self._record.url(),
            "--checkpoint-dir",
            str(self._folder / "models"),
            "--server-port",
            str(port),
        )
        on_ray = ("--ray-address", self._sweep.cluster.address)
        return serving(self._folder, *OPTIONS[:-1], *on_ray, *place, how, patch=patch)

    def _judge(self) -> None:
        def look(record: Record) -> None:
            self.made = Uninterrupted(tuple(row[1] for row in record.rounds), files_of(record))
            self.problems += after_all(record, self._meant or self.made, self.crowd.effects, ALL)
            ((self.stayed,),) = record.ask(INHERITED)

        self.problems += self.crowd.problems
        self._looked_at(look)
        if "Traceback" in self.log:
            self.problems.append("somebody failed")
        if (standby := self.servers.get("standby")) is not None:
            listens = [line for line in standby.lines if PORT.search(line)]
            if listens:
                self.listened = datetime.strptime(listens[0][:23], "%Y-%m-%d %H:%M:%S,%f").timestamp()

    def _looked_at(self, look: Callable[[Record], T]) -> T:
        from flserver.store.postgres import engines

        with engines.connect_for_reading(self._record.url()) as connection:

            def execute(query: str, parameters: Any) -> Any:
                return connection.execute(query.replace("?", "%s"), parameters or None)

            return look(Record(Address(self._record.url()), self._folder / "models", execute))


def _watch(word: Word | None, tally: Path | None, died: Path | None = None) -> None:
    """In the server's process: what its places say and hear is counted; at ``word`` the process of a node is killed, or
    this one, and ``died`` says when."""
    from flserver.ingest.place import Place
    from flserver.process.ray.nodes import RayNodes

    pids: dict[str, int] = {}
    of: list[str] = []  # the node that the word was said by, or to
    begin, take, give = RayNodes._begin, Place.take, Place.give

    def begun(nodes: RayNodes, slot: int, actor: Any, about: dict[str, Any]) -> Any:
        line = begin(nodes, slot, actor, about)
        pids[line.place.name] = about["pid"]
        return line

    def strike() -> None:
        assert word is not None
        assert died is not None
        died.write_text(str(time.time()), encoding="ascii")
        os.kill(os.getpid() if word.victim == "server" else pids[of[-1]], signal.SIGKILL)

    file = None if tally is None else os.open(tally, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    counted, said = Counted(word, strike, file), set[str]()

    def taken(place: Place, timeout: float) -> bytes:
        if place.name in said:
            said.remove(place.name)
            counted.strike_if(True, "after")
        batch = take(place, timeout)
        if counted.is_at(batch, saying=True):
            of.append(place.name)
            said.add(place.name)
            counted.strike_if(True, "before")
        return batch

    def given(place: Place, batch: bytes | memoryview) -> None:
        if at := counted.is_at(batch, saying=False):
            of.append(place.name)
        counted.strike_if(at, "before")
        give(place, batch)
        counted.strike_if(at, "after")

    RayNodes._begin, Place.take, Place.give = begun, taken, given  # type: ignore[method-assign]
