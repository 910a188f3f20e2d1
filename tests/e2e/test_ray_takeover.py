"""A server over nodes on Ray that is killed, and one that stands by: it finds the nodes, and their trainers stay."""

import time
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from flserver.settings.places import Address
from flserver.store.reader import Reader
from tests.e2e.harness import FAST, Peer, ServerProcess, free_port
from tests.e2e.trained import changed
from tests.patience import eventually
from tests.postgres_server import PostgresDatabase
from tests.ray_cluster import RayCluster

pytestmark = [pytest.mark.ray, pytest.mark.postgres]
CLIENTS, ROUNDS = (1, 2, 3), 3
OPTIONS = ("--num-rounds", str(ROUNDS), "--min-clients", "3", "--min-updates", "2", "--seed", "3", *FAST)
LISTENS = r"^(.{23}).*listening for trainers on .*:(\d+)$"
DIGESTS = "SELECT model_digest FROM v1_rounds WHERE status = 'committed' ORDER BY round"
INHERITED = """SELECT COUNT(*) FROM v1_events WHERE type = 'ConnectionOpened'
    AND json_extract(payload, '$.inherited_from') IS NOT NULL"""
TWICE = """SELECT json_extract(payload, '$.update_id') FROM v1_events WHERE type = 'UpdateReceived'
    GROUP BY 1 HAVING COUNT(*) > 1"""


def answer(peers: list[Peer], *rounds: int) -> None:
    """Each answers the models of these rounds."""
    for round in rounds:
        for client, peer in zip(CLIENTS, peers, strict=True):
            peer.upload(changed(peer.model(), client, round))


def joined(server: ServerProcess, stack: ExitStack) -> list[Peer]:
    return [stack.enter_context(Peer(server, client, 10 + client)).join() for client in CLIENTS]


def alone(folder: Path) -> list[tuple[Any, ...]]:
    """The models' digests of a run that nothing happens to."""
    folder.mkdir()
    with ServerProcess(folder, *OPTIONS) as server, ExitStack() as stack:
        peers = joined(server, stack)
        answer(peers, *range(1, ROUNDS + 1))
        for peer in peers:
            peer.finished()
        assert server.exit_code() == 0, server.log
        return server.sql(DIGESTS)


def test_trainers_stay_where_their_server_is_killed_and_the_models_are_those_of_a_run_that_nothing_happened_to(
    tmp_path: Path, ray_cluster: RayCluster, empty_postgres: PostgresDatabase
) -> None:
    place = ("--db", empty_postgres.url(), "--checkpoint-dir", str(tmp_path / "models"), "--run-name", "night")
    on_ray = ("--ingest", "2", "--ray-address", ray_cluster.address, "--server-port", str(free_port()))

    def asked(query: str) -> list[tuple[Any, ...]]:
        return Reader(Address(empty_postgres.url())).query(query)[1]

    with ExitStack() as stack:

        def serve(how: str) -> ServerProcess:
            options = (*OPTIONS, *place, *on_ray, how)
            return stack.enter_context(ServerProcess(tmp_path, *options, env=ray_cluster.env))

        server = serve("--resume")
        server.wait_for_line("node-2 .*listening")
        peers = joined(server, stack)
        answer(peers, 1)
        standby = serve("--standby")
        standby.wait_for_line("standing by for run")
        models = [peer.model() for peer in peers]
        peers[0].upload(changed(models[0], CLIENTS[0], 2))
        eventually(lambda: asked("SELECT 1 FROM v1_updates WHERE answers_round = 2"))
        died = time.time()
        server.kill()
        listens = datetime.strptime(standby.wait_for_line(LISTENS)[1], "%Y-%m-%d %H:%M:%S,%f").timestamp()
        models[0] = peers[0].model()  # it has answered, so it is asked again; the others still train
        for client, peer, model in zip(CLIENTS, peers, models, strict=True):
            peer.upload(changed(model, client, 2))
        answer(peers, *range(3, ROUNDS + 1))
        for peer in peers:
            peer.finished()
        assert standby.exit_code() == 0, standby.log
    print(f"let trainers in after {listens - died:.2f} s")
    assert asked(DIGESTS) == alone(tmp_path / "alone")
    assert asked("SELECT COUNT(*) FROM v1_messages WHERE header = '<METADATA>'") == [(3,)], "each said it once"
    assert asked(INHERITED) == [(3,)]
    assert asked(TWICE) == []
    decisions = "SELECT decision, COUNT(*) FROM v1_updates GROUP BY 1 ORDER BY 1"
    assert asked(decisions) == [("aborted", 1), ("accepted", 3 * ROUNDS)]
    assert Reader(Address(empty_postgres.url())).verify_chain().problems == ()
