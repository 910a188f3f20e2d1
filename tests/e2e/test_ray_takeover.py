"""A server over nodes on Ray that is killed, and one that stands by: it finds the nodes, and their trainers stay."""

import time
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path

import pytest

from flserver.settings.places import Address
from flserver.store.reader import Reader
from tests.e2e.harness import FAST, Peer, free_port
from tests.e2e.test_postgres import PostgresProcess
from tests.e2e.test_postgres import digests as committed
from tests.e2e.test_ray_nodes import ROUNDS, changed, digests
from tests.patience import PATIENCE
from tests.postgres_server import PostgresDatabase
from tests.ray_cluster import RayCluster

pytestmark = [pytest.mark.ray, pytest.mark.postgres]
CLIENTS = (1, 2, 3)
LISTENS = r"^(.{23}).*listening for trainers on .*:(\d+)$"
INHERITED = """SELECT COUNT(*) FROM v1_events WHERE type = 'ConnectionOpened'
    AND json_extract(payload, '$.inherited_from') IS NOT NULL"""
TWICE = """SELECT json_extract(payload, '$.update_id') FROM v1_events WHERE type = 'UpdateReceived'
    GROUP BY 1 HAVING COUNT(*) > 1"""


def test_trainers_stay_where_their_server_is_killed_and_the_models_are_those_of_a_run_that_nothing_happened_to(
    tmp_path: Path, ray_cluster: RayCluster, empty_postgres: PostgresDatabase
) -> None:
    alone = digests(tmp_path / "alone")
    port = str(free_port())
    options = ("--run-name", "night", "--num-rounds", str(ROUNDS), "--min-clients", "3", "--min-updates", "2", *FAST)
    options += ("--ingest", "2", "--ray-address", ray_cluster.address, "--server-port", port)
    with ExitStack() as stack:

        def serve(how: str) -> PostgresProcess:
            server = PostgresProcess(tmp_path, empty_postgres, *options, how, env=ray_cluster.env)
            stack.enter_context(server)
            return server

        server = serve("--resume")
        server.wait_for_line("node-2 .*listening")
        peers = [stack.enter_context(Peer(server, client, 10 + client)).join() for client in CLIENTS]
        for peer in peers:
            peer.upload(changed(peer.model(), int(str(peer.client_id)), 1))
        standby = serve("--standby")
        standby.wait_for_line("standing by for run")
        models = [peer.model() for peer in peers]
        peers[0].upload(changed(models[0], 1, 2))
        server.wait_for_sql("SELECT 1 FROM v1_updates WHERE answers_round = 2")
        died = time.time()
        server.kill()
        listens = datetime.strptime(standby.wait_for_line(LISTENS)[1], "%Y-%m-%d %H:%M:%S,%f").timestamp()
        assert listens - died < PATIENCE  # five seconds, where nobody else computes: ops/crash-sweep --ray looks
        for number, peer in enumerate(peers):  # the first has answered, so it is asked again; the others still train
            model = peer.model() if number == 0 else models[number]
            peer.upload(changed(model, CLIENTS[number], 2))
        for round in range(3, ROUNDS + 1):
            for number, peer in enumerate(peers):
                peer.upload(changed(peer.model(), CLIENTS[number], round))
        for peer in peers:
            peer.finished()
        assert standby.exit_code() == 0, standby.log
        print("took over after", listens - died)
        assert committed(empty_postgres, "night") == alone
        assert standby.sql("SELECT COUNT(*) FROM v1_messages WHERE header = '<METADATA>'") == [(3,)], (
            "each said it once"
        )
        assert standby.sql(INHERITED) == [(3,)]
        assert standby.sql(TWICE) == []
        decisions = "SELECT decision, COUNT(*) FROM v1_updates GROUP BY 1 ORDER BY 1"
        assert standby.sql(decisions) == [("aborted", 1), ("accepted", 3 * ROUNDS)]
        assert Reader(Address(empty_postgres.url())).verify_chain().problems == ()
