"""Two servers of one run behind HAProxy, with the handbook's own configuration: one is killed, and the other serves."""

from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from tests.certificates import Authority
from tests.e2e.harness import FAST, ServerProcess, free_port
from tests.e2e.tls_peers import TlsPeer, served, trusting
from tests.e2e.tunnels import OPS, Forwarding, HaProxy, changed
from tests.patience import eventually
from tests.postgres_server import PostgresDatabase

pytestmark = [pytest.mark.postgres, pytest.mark.haproxy]

CLIENTS = ("1", "2")


class TwoServersDoor(HaProxy):
    """HAProxy before servers on two ports of this machine."""

    def __init__(self, folder: Path, first: int, second: int) -> None:
        port = free_port()
        here = {
            r"bind :50052$": f"bind 127.0.0.1:{port}",
            r"fl-a\.example:50052": f"127.0.0.1:{first}",
            r"fl-b\.example:50052": f"127.0.0.1:{second}",
        }
        text = changed((OPS / "haproxy" / "two-servers.cfg").read_text(encoding="utf-8"), here)
        (folder / "two-servers.cfg").write_text(text, encoding="utf-8")
        Forwarding.__init__(self, "haproxy", "-f", "two-servers.cfg", folder=folder, port=port)


def test_trainers_find_whichever_server_has_the_run_behind_haproxy(
    empty_postgres: PostgresDatabase, tmp_path: Path
) -> None:
    authority = Authority(tmp_path / "certs")
    options = ["--db", empty_postgres.url(), "--checkpoint-dir", str(tmp_path / "models"), "--run-name", "night"]
    options += ["--num-rounds", "2", "--min-clients", "2", *FAST, "--trusted-proxy", "127.0.0.1"]
    options += served(authority, mutual=True)
    ports = [free_port(), free_port()]
    with ExitStack() as stack:
        first = stack.enter_context(ServerProcess(tmp_path, *options, "--server-port", str(ports[0])))
        first.wait_for_line("listening for trainers")
        second = stack.enter_context(ServerProcess(tmp_path, *options, "--server-port", str(ports[1]), "--standby"))
        second.wait_for_line("standing by for run")
        door = stack.enter_context(TwoServersDoor(tmp_path, *ports))

        def join(client: str) -> TlsPeer:
            context = trusting(authority, authority.client(client))

            def tried() -> TlsPeer | None:
                with suppress(OSError, EOFError):
                    peer = stack.enter_context(TlsPeer(door.port, client, context))
                    if peer.register()["header"] == "<SUCCESS>":
                        return peer
                return None

            return eventually(tried, lambda: "\n".join((first.log, second.log, *door.lines)), pause=0.2)

        peers = [join(client) for client in CLIENTS]
        for number, peer in enumerate(peers):
            peer.answer(number)
        for peer in peers:
            peer.model()
        first.kill()
        for number, peer in enumerate([join(client) for client in CLIENTS]):
            peer.answer(number)
        assert second.exit_code() == 0, second.log
        assert empty_postgres.ask("SELECT round, updates_accepted FROM v1_rounds WHERE status = 'committed'") == [
            (0, 0), (1, 2), (2, 2)
        ]  # fmt: skip
        came = "SELECT DISTINCT peer_host, proxy_host, transport FROM v1_connections WHERE client_id IS NOT NULL"
        assert empty_postgres.ask(came) == [("127.0.0.1", "127.0.0.1", "tls")]
        identities = empty_postgres.ask(
            "SELECT identity, COUNT(*) FROM v1_updates WHERE decision = 'accepted' GROUP BY 1"
        )
        assert identities == [("authenticated", 4)]
        assert empty_postgres.ask(
            "SELECT COUNT(*) FROM v1_operator_events WHERE kind = 'resume' AND reason LIKE 'took over%'"
        ) == [(1,)]
