"""What an earlier server of a run has left on a Ray cluster, and its next one finds: nodes, and trainers at them."""

import logging
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Any

from flserver.cluster.ray import ActorGone, Cluster
from flserver.settings import ServerSettings

HAND_ON_SECONDS = 4.0  # that a node may take to let the earlier server go
SERVES_SECONDS = 2.0

logger = logging.getLogger(__name__)

Answer = tuple[str, int, int]  # whose, to the model of which round and attempt
Answers = Callable[[int], Iterable[Answer]]


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
            asked[name] = actor, actor.hand_on.remote(server)
        else:
            cluster.kill(actor)
    told = []
    for name, (actor, reference) in asked.items():
        try:
            said = cluster.get(reference, HAND_ON_SECONDS)
        except ActorGone as error:
            logger.debug("%s of an earlier server: %s", name, error)
            cluster.kill(actor)
        else:
            told.append(said)
    same = [said for said in told if said["code"] == code]  # another one is ended where its slot is begun
    return LeftOver(idle_of(same, answers), frozenset(said["machine"] for said in same if said["port"] is not None))


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


def keep_port(settings: ServerSettings, run_id: str) -> bool:
    """Whether nodes of the run on this machine listen on its port. Raises UsageError."""
    assert settings.ingest.ray_address is not None
    cluster = Cluster(settings.ingest.ray_address, run_id)
    found = []
    for actor in filter(None, map(cluster.find, cluster.names())):
        try:
            found.append(cluster.get(actor.where.remote(), SERVES_SECONDS))
        except ActorGone as error:
            logger.debug("a node of an earlier server: %s", error)
    here = (said["port"] for said in found if said["machine"] == cluster.machine)
    return settings.network.server_port in here


def end(cluster: Cluster, actor: Any, server: str) -> None:
    """End a node that is ``server``'s, or nobody's, or does not answer: another one's goes on with the run."""
    try:
        if cluster.get(cluster.call(actor, "serves"), SERVES_SECONDS) not in (None, server):
            return
    except ActorGone as error:
        logger.debug("a node that is to end: %s", error)
    cluster.kill(actor)
