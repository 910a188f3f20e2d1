"""What an earlier server of a run has left on a Ray cluster, and its next one finds: nodes, and trainers at them."""

import logging
import threading
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from flserver.clock import Deadline
from flserver.cluster.ray import ActorGone, ActorLate, Cluster
from flserver.settings import ServerSettings
from flserver.sources import digest_of_package

HAND_ON_SECONDS = 4.0  # that nodes may take to let the earlier server go
SERVES_SECONDS = 2.0
STAY_SECONDS = 3.0  # between two times that they are told to stay: a fifth of what they wait

logger = logging.getLogger(__name__)

Answer = tuple[str, int, int]  # whose, to the model of which round and attempt
Answers = Callable[[int], Iterable[Answer]]
Key = TypeVar("Key")


@dataclass(frozen=True)
class LeftOver:
    """The clients that are ``idle``: they have answered the model that they were sent last; and the machines on which a
    node has kept the trainers' port."""

    idle: frozenset[str] = frozenset()
    machines: frozenset[str] = frozenset()


def take_over(cluster: Cluster, server: str, ours: Collection[str], code: str, answers: Answers) -> LeftOver:
    """Have the run's nodes for ``server``, and end those that are none of ``ours``, of other sources than ``code``, or
    do not answer. ``answers`` gives those on record to models of a round and of later ones."""
    asked = {}
    for name in cluster.names():
        if (actor := cluster.find(name)) is None:
            continue
        if name in ours:
            asked[name] = actor, cluster.call(actor, "hand_on", server)
        else:
            cluster.kill(actor)
    told, _ = _answers(cluster, {name: reference for name, (_, reference) in asked.items()}, HAND_ON_SECONDS)
    for name in asked.keys() - told.keys():
        cluster.kill(asked[name][0])
    same = [said for said in told.values() if said["code"] == code]  # another one is ended where its slot is begun
    return LeftOver(idle_of(same, answers), frozenset(said["machine"] for said in same if said["port"] is not None))


def _answers(cluster: Cluster, asked: Mapping[Key, Any], seconds: float) -> tuple[dict[Key, Any], set[Key]]:
    """What actors answer that were all asked before, and who is late: those that do not within so many seconds, which a
    machine that is gone costs once, and not for each of its actors, and may yet. The others are gone."""
    told, late, deadline = dict[Key, Any](), set[Key](), Deadline.after(seconds)
    for key, reference in asked.items():
        try:
            told[key] = cluster.get(reference, deadline.remaining())
        except ActorGone as error:
            logger.debug("%s of an earlier server: %s", key, error)
            if isinstance(error, ActorLate):
                late.add(key)
    return told, late


def idle_of(told: Iterable[dict[str, Any]], answers: Answers) -> frozenset[str]:
    """Which clients have answered the model that they hold: an upload of theirs is on record, or was whole at some node
    and is lost, during that attempt or a later one. Pure."""
    holds: dict[str, tuple[int, int]] = {}
    came: list[tuple[str, tuple[int, int]]] = []
    for said in told:
        holds |= {client: (at[0], at[1]) for client, at in said["holds"].items()}
        came += [(client, (at[0], at[1])) for client, at in said["answered"].items()]
    if not holds:
        return frozenset()
    came += [(client, (round, attempt)) for client, round, attempt in answers(min(holds.values())[0])]
    return frozenset(client for client, at in came if client in holds and at >= holds[client])


class Staying:
    """The nodes of a run that an earlier server left, where its next one has the run by now, and is not ready to take
    them over: what they have for it stays meanwhile, however long that takes, until ``end``, or until somebody has
    them. One that is slow to answer is asked again. ``close`` is to follow. Raises UsageError."""

    def __init__(self, settings: ServerSettings, run_id: str) -> None:
        assert settings.ingest.ray_address is not None
        self._cluster = cluster = Cluster(settings.ingest.ray_address, run_id)
        self._here, self._port = cluster.machine, settings.network.server_port
        self.has_port = False  # whether one listens on it on this machine
        self._actors = {name: actor for name in cluster.names() if (actor := cluster.find(name)) is not None}
        self._unknown = set(self._actors)  # those of which is not known yet whose they are
        self._serve: dict[str, str | None] = {}  # whose the others are that are told to stay
        self._look()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._stay, name="ray-left", daemon=True)
        self._thread.start()

    def _look(self) -> None:
        """Ask whose those are that have not said so."""
        try:
            asked = {
                (name, what): self._cluster.call(self._actors[name], what)
                for name in sorted(self._unknown)
                for what in ("where", "serves")
            }
        except ActorGone as error:  # Ray takes nothing now
            logger.debug("nodes of an earlier server: %s", error)
            return
        told, late = _answers(self._cluster, asked, SERVES_SECONDS)
        self._unknown = {name for name, _ in late}
        for name in {name for name, _ in told} - self._unknown:
            if (name, "where") not in told or (name, "serves") not in told:
                continue  # it is gone
            where = told[name, "where"]
            # One of other sources is of no use to this server, and may not know what it is told.
            if where["code"] == digest_of_package():
                self._serve[name] = told[name, "serves"]
            self.has_port |= (where["machine"], where["port"]) == (self._here, self._port)

    def _stay(self) -> None:
        while self._say() and not self._ended.wait(STAY_SECONDS):
            pass

    def _say(self) -> bool:
        """Tell them to stay; whether one does, or may."""
        try:
            asked = {
                name: self._cluster.call(self._actors[name], "stay", server) for name, server in self._serve.items()
            }
        except ActorGone as error:  # Ray takes nothing now; it may again before they have waited for long
            logger.debug("nodes of an earlier server: %s", error)
            return True
        told, late = _answers(self._cluster, asked, SERVES_SECONDS)
        self._serve = {name: server for name, server in self._serve.items() if name in late or told.get(name)}
        if not self._ended.is_set():
            self._look()
        return bool(self._serve or self._unknown)

    def end(self) -> None:
        """The server has taken them over."""
        self._ended.set()

    def close(self) -> None:
        """Nothing is asked of Ray from here on."""
        self.end()
        self._thread.join(3 * SERVES_SECONDS)  # it waits there for longer only where there is no head any more


def end(cluster: Cluster, actor: Any, server: str) -> None:
    """End a node that is ``server``'s, or nobody's, or does not answer: another one's goes on with the run."""
    try:
        if cluster.get(cluster.call(actor, "serves"), SERVES_SECONDS) not in (None, server):
            return
    except ActorGone as error:
        logger.debug("a node that is to end: %s", error)
    cluster.kill(actor)
