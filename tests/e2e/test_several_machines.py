"""Runs on two machines, with the handbook's commands, its unit's Ray, its HAProxy and its table of ports. A machine is
a network, processes, shared memory and folders of its own, on one kernel."""

import re
import shutil
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.e2e.apart import HANDBOOK, Away, HaProxyOn, ServerOn, serve, that_ends_tls
from tests.e2e.command import flserver
from tests.e2e.harness import FAST, closed
from tests.e2e.trained import ROUNDS, changed, digests
from tests.e2e.tunnels import OPS
from tests.machines import Machine, Network, network
from tests.patience import PATIENCE
from tests.ray_machines import RayMachines

pytestmark = [pytest.mark.ray, pytest.mark.network_namespace, pytest.mark.haproxy]
CLIENTS = (1, 2, 3)
ALL_ROUNDS = ("--num-rounds", str(ROUNDS), "--min-clients", str(len(CLIENTS)))
EVERY = "0.0.0.0"
A, B, PROXY = "10.0.0.1", "10.0.0.2", "10.0.0.9"
SITES = {client: f"10.0.0.{20 + client}" for client in CLIENTS}
ROWS = re.compile(r"(?m)^\| ([\d, to]+) \|")  # of the handbook's table of ports


class Hall:
    """All machines, plugged in: ``a`` and ``b`` with Ray, HAProxy's, and the trainers', with an address for each."""

    def __init__(self, network: Network, cluster: RayMachines, certs: Path) -> None:
        self.network, self.cluster, self._certs = network, cluster, certs
        self.a, self.b = cluster.machine("machine-a", 1), cluster.machine("machine-b", 2)
        self._proxy, self._trainers = cluster.machine("haproxy", 9), cluster.machine("trainers", 20)
        for address in SITES.values():
            network.add_address(self._trainers, address)
        for machine in (self.a, self.b):
            if shutil.which("nft"):
                subprocess.run(machine.command("nft", "-f", "-"), input=firewall(), text=True, check=True)
            cluster.start(machine)

    @contextmanager
    def served(self, folder: Path, nodes: int, *more: str, tls: bool) -> Iterator["Served"]:
        """The handbook's server and HAProxy, where nodes end TLS or HAProxy does: nodes on both machines."""
        options = [word.replace("/etc/flserver/certs", str(self._certs)) for word in serve(tls=tls)]
        options += ["--server-port", "50052", "--metrics-port", "9464", "--ingest", str(nodes), *FAST, *more]
        with ServerOn(self.cluster, self.a, folder, *options) as server, ExitStack() as stack:
            try:
                assert set(server.nodes(nodes).values()) == {EVERY, B}
                proxy = HaProxyOn(self._proxy, self._certs, None if tls else that_ends_tls())
                stack.enter_context(proxy)
                if tls:  # its file has a line for a machine more
                    proxy.wait_for_line("machine-c is DOWN")
                yield Served(self._trainers, server, proxy, self._certs, stack)
            except BaseException as error:
                server.process.terminate()  # its nodes end with it, and have its port no longer than that
                server.exit_code()
                raise AssertionError(server.log) from error
        code, said = flserver("--db", server.db, "verify")
        assert code == 0, said


class Served:
    """A server behind HAProxy; ``peers`` are the trainers, by client, as they come."""

    def __init__(self, trainers: Machine, server: ServerOn, proxy: HaProxyOn, certs: Path, stack: ExitStack) -> None:
        self._trainers, self.server, self._proxy, self._certs, self._stack = trainers, server, proxy, certs, stack
        self.peers: dict[int, Away] = {}

    def join(self, *clients: int) -> None:
        """Have these register, each over TLS with its certificate."""
        for client in clients:
            own = self._certs / "clients" / str(client)
            context = ssl.create_default_context(cafile=self._certs / "ca.crt")
            context.load_cert_chain(own / "client.crt", own / "client.key")
            peer = Away(self._trainers, SITES[client], self._proxy, client, context)
            self.peers[client] = self._stack.enter_context(peer)
            peer.join()

    def play(self, *rounds: int) -> None:
        """Have all train in these rounds."""
        for round in rounds:
            for client, peer in self.peers.items():
                peer.upload(changed(peer.model(), client, round))

    def finish(self) -> None:
        """See the run complete."""
        for peer in self.peers.values():
            peer.finished()
        assert self.server.exit_code() == 0


def ports() -> list[tuple[int, int]]:
    """The first and the last of each range of the handbook's table."""
    found = re.findall(r"(\d+)(?: to (\d+))?", ", ".join(ROWS.findall(HANDBOOK)))
    assert len(found) > 8
    return [(int(first), int(last or first)) for first, last in found]


def firewall() -> str:
    """The table as rules: between the machines what is theirs, from HAProxy trainers and who asks for heads."""
    outside = {50052, 9464}
    theirs = ", ".join(f"{first}-{last}" for first, last in ports() if first not in outside)
    return f"""table inet firewall {{ chain input {{ type filter hook input priority 0; policy drop;
        iif lo accept
        ct state established,related accept
        ip saddr {{ {A}, {B} }} tcp dport {{ {theirs} }} accept
        ip saddr {PROXY} tcp dport {{ {", ".join(map(str, outside))} }} accept
    }}
    }}
"""


def listening(machine: Machine) -> set[int]:
    """The ports on which anything listens there, beyond loopback."""
    addresses = [line.split()[3] for line in machine.run("ss", "-Hltn").splitlines()]
    return {int(one.rpartition(":")[2]) for one in addresses if "127.0.0.1" not in one}


@pytest.fixture(scope="module")
def hall(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hall]:
    certs = tmp_path_factory.mktemp("certs")
    clients = [word for client in CLIENTS for word in ("--client", str(client))]
    command = [OPS / "certificates", certs, "--server", "flserver.example", *clients]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, timeout=PATIENCE)
    with network() as made:
        cluster = RayMachines(made)
        try:
            yield Hall(made, cluster, certs)
        finally:
            cluster.close()


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The models without other machines."""
    return digests(tmp_path_factory.mktemp("alone") / "run")


def models(server: ServerOn) -> list[str]:
    committed = "SELECT model_digest FROM v1_rounds WHERE status = 'committed' ORDER BY round"
    return [digest for (digest,) in server.sql(committed)]


def only_ports_of_the_table(hall: Hall) -> None:
    for machine in (hall.a, hall.b):
        for port in listening(machine):
            assert any(first <= port <= last for first, last in ports()), f"{port} is not in the table"


def came_by_several_nodes(server: ServerOn) -> None:
    came = "SELECT DISTINCT client_id, peer_host, proxy_host FROM v1_connections WHERE client_id IS NOT NULL ORDER BY 1"
    assert server.sql(came) == [(str(client), SITES[client], PROXY) for client in CLIENTS]
    used = "SELECT COUNT(DISTINCT node) FROM v1_connections WHERE client_id IS NOT NULL"
    assert server.sql(used) > [(1,)]


def decisions(server: ServerOn) -> list[tuple[str, str, int]]:
    return server.sql("SELECT decision, identity, COUNT(*) FROM v1_updates GROUP BY 1, 2")


def test_four_nodes_on_two_machines_end_tls_and_make_the_same_models(
    hall: Hall, tmp_path: Path, alone: list[str]
) -> None:
    with hall.served(tmp_path, 4, *ALL_ROUNDS, tls=True) as run:
        only_ports_of_the_table(hall)
        run.join(*CLIENTS)
        run.play(*range(1, ROUNDS + 1))
        run.finish()
    came_by_several_nodes(run.server)
    assert models(run.server) == alone
    assert decisions(run.server) == [("accepted", "authenticated", ROUNDS * len(CLIENTS))]


def test_a_machine_that_goes_without_a_word_costs_what_it_had(hall: Hall, tmp_path: Path) -> None:
    with hall.served(tmp_path, 2, *ALL_ROUNDS, "--min-updates", "1", tls=True) as run:
        server = run.server
        run.join(*CLIENTS)
        trained = {client: changed(peer.model(), client, 1) for client, peer in run.peers.items()}
        nodes = server.nodes(2)
        (theirs,) = [node for node, host in nodes.items() if host == B]
        at = "SELECT v1_clients.client_id FROM v1_clients JOIN v1_connections USING (connection_id) WHERE node = ?"
        there = [int(client) for (client,) in server.sql(at, theirs)]
        here = [client for client in CLIENTS if client not in there]
        assert there
        assert here
        run.peers[there[0]].upload(trained[there[0]])
        hall.network.unplug(hall.b)
        try:
            server.wait_for_sql("SELECT 1 FROM v1_events WHERE type = 'NodeLost'")
            left = "SELECT client_id FROM v1_clients WHERE left_reason = 'node'"
            assert {int(client) for (client,) in server.wait_for_sql(left)} == set(there)
            for client in there:
                assert closed(run.peers[client].connection)
                run.join(client)
            for client in here:
                run.peers[client].upload(trained[client])
            run.play(2)
            assert {host for node, host in server.nodes(3).items() if node not in nodes} == {EVERY}
            run.play(3)
            run.finish()
        finally:
            hall.network.plug(hall.b)
            hall.cluster.restart(hall.b)
    assert {round for (round,) in server.sql("SELECT round FROM v1_rounds WHERE status = 'committed'")} == {0, 1, 2, 3}


def test_a_machine_that_came_back_takes_part_and_the_run_goes_on_where_rays_head_was_gone(
    hall: Hall, tmp_path: Path, alone: list[str]
) -> None:
    """HAProxy ends TLS."""
    with hall.served(tmp_path, 2, *ALL_ROUNDS, tls=False) as run:
        only_ports_of_the_table(hall)
        run.join(*CLIENTS)
        run.play(1)
        came_by_several_nodes(run.server)
        hall.a.run("pkill", "-KILL", "gcs_server")
        run.server.wait_for_line("the head of the Ray cluster, .*, is gone")
        assert run.server.exit_code() == 3
    for machine in (hall.a, hall.b):
        hall.cluster.restart(machine)
    with hall.served(tmp_path, 2, *ALL_ROUNDS, "--resume", tls=False) as run:
        run.join(*CLIENTS)
        run.play(*range(2, ROUNDS + 1))
        run.finish()
    came_by_several_nodes(run.server)
    assert models(run.server) == alone
    assert decisions(run.server) == [("accepted", "claimed", ROUNDS * len(CLIENTS))]
