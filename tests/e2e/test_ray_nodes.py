"""Rounds over ingest nodes on a Ray cluster: the same model as without, a node that is killed, a server that is."""

import os
import signal
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.e2e.harness import FAST, Peer, ServerProcess
from tests.e2e.trained import ROUNDS, changed, digests
from tests.patience import eventually
from tests.ray_cluster import RayCluster

pytestmark = pytest.mark.ray


def test_the_models_are_the_same_bits_on_as_many_nodes(tmp_path: Path, ray_cluster: RayCluster) -> None:
    alone = digests(tmp_path / "alone")
    assert len(set(alone)) == ROUNDS + 1
    on_ray = "--ray-address", ray_cluster.address
    for nodes in ("1", "2", "4"):
        assert digests(tmp_path / nodes, "--ingest", nodes, *on_ray, env=ray_cluster.env) == alone


def test_a_process_that_is_killed_is_noticed_and_another_serves_its_trainers(
    tmp_path: Path, ray_cluster: RayCluster
) -> None:
    options = ("--ingest", "2", "--ray-address", ray_cluster.address, "--num-rounds", "1", "--min-clients", "7", *FAST)
    with ServerProcess(tmp_path, *options, env=ray_cluster.env) as server, ExitStack() as stack:
        killed = int(server.wait_for_line(r"node-1 \(process (\d+)\): listening")[1])
        server.wait_for_line(r"node-2 \(process \d+\): listening")

        def join(client: int) -> Peer:
            return stack.enter_context(Peer(server, client, 10)).join()

        peers = {client: join(client) for client in range(1, 7)}
        os.kill(killed, signal.SIGKILL)
        server.wait_for_line(r"node-1 is gone: its process died")
        server.wait_for_line(r"node-3 \(process \d+\): listening")
        left = eventually(lambda: server.sql("SELECT client_id FROM v1_clients WHERE left_reason = 'node'") or [()])
        for client in [int(row[0]) for row in left if row]:
            peers[client] = join(client)
        peers[7] = join(7)
        for client, peer in peers.items():
            peer.upload(changed(peer.model(), client, 1))
        for peer in peers.values():
            peer.finished()
        assert server.exit_code() == 0, server.log
        assert server.sql("SELECT updates_accepted FROM v1_rounds WHERE round = 1") == [(7,)]
        assert server.sql("SELECT count(*) FROM v1_events WHERE type = 'NodeLost'") == [(1,)]


def test_a_server_without_the_token_is_refused(tmp_path: Path, ray_cluster: RayCluster) -> None:
    wrong = ray_cluster.env | {"RAY_AUTH_TOKEN": "0" * 64}
    with ServerProcess(tmp_path, "--ingest", "1", "--ray-address", ray_cluster.address, env=wrong) as server:
        assert server.exit_code() == 2, server.log
        assert "the token to be the cluster's" in server.log
        assert not server.db.exists(), "it ended before it made anything"
    without = ray_cluster.env | {"RAY_AUTH_MODE": "disabled"}
    with ServerProcess(tmp_path, "--ingest", "1", "--ray-address", ray_cluster.address, env=without) as server:
        assert server.exit_code() == 2, server.log
        assert "RAY_AUTH_MODE=disabled: who reaches" in server.log
