"""The handbook's way with the real stunnel: unchanged trainers, each behind one of its own, under mutual TLS."""

import os
import re
import shutil
import signal
import subprocess
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from flserver.errors import NoHead
from flserver.heads.keys import PrivateKey, opened
from flserver.heads.proofs import Extension
from flserver.witness.watch import fetcher
from tests.certificates import Authority, Pair
from tests.e2e.conftest import Start
from tests.e2e.harness import FAST, Peer, ServerProcess, send
from tests.e2e.trainers import trainers
from tests.e2e.tunnels import OPS, HaProxy, Stunnel
from tests.fldata import write_fldata
from tests.patience import PATIENCE, eventually

LARGE = ("--num-rounds", "1", "--min-clients", "2", "--model", "torchvision:squeezenet1_1", *FAST)
REFUSED = "SELECT reason FROM v1_messages WHERE outcome = 'refused'"

pytestmark = pytest.mark.stunnel


def certificates(folder: Path, *words: str) -> None:
    command = [OPS / "certificates", folder, *words]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, timeout=PATIENCE)


@pytest.fixture
def certs(tmp_path: Path) -> Path:
    clients = [word for client in (1, 2) for word in ("--client", f"{client}=Hospital {client}")]
    certificates(tmp_path / "certs", "--server", "flserver.example", *clients)
    return tmp_path / "certs"


def mutual(certs: Path) -> tuple[str, ...]:
    """The server's options, as the handbook has them."""
    files = {
        "--tls-cert": "server.crt",
        "--tls-key": "server.key",
        "--tls-client-ca": "ca.crt",
        "--clients": "clients.csv",
    }
    return tuple(word for option, name in files.items() for word in (option, str(certs / name)))


def fingerprint(certs: Path, client: int) -> str:
    rows = (certs / "clients.csv").read_text().splitlines()
    return next(row.rpartition(",")[2] for row in rows if row.startswith(f"{client},"))


def behind(server: ServerProcess, certs: Path, client: int, *more: str) -> Stunnel:
    return Stunnel(server.port, certs / "clients" / str(client), "flserver.example", *more)


def test_unchanged_trainers_each_behind_a_stunnel(start: Start, certs: Path, tmp_path: Path) -> None:
    data = write_fldata(tmp_path / "FLdata", (1, 2), samples=100)
    server = start("--num-rounds", "3", "--min-clients", "2", "--time-to-wait", "3600", *mutual(certs))
    with ExitStack() as stack:
        for client in (1, 2):
            tunnel = stack.enter_context(behind(server, certs, client))
            stack.enter_context(trainers(tunnel, data, client))  # on leaving, it must have read <FINISHED>
        assert server.exit_code() == 0
    assert server.sql("SELECT decision, identity, COUNT(*) FROM v1_updates GROUP BY 1, 2") == [
        ("accepted", "authenticated", 6)
    ]
    assert server.sql("SELECT client_id, identity, label, left_reason FROM v1_clients ORDER BY 1") == [
        (str(client), "authenticated", f"Hospital {client}", "finished") for client in (1, 2)
    ]
    connections = server.sql(
        "SELECT client_id, transport, certificate_subject, certificate_fingerprint, COUNT(*) FROM v1_connections "
        "GROUP BY 1, 2, 3, 4 ORDER BY 1"
    )
    assert connections == [(str(c), "tls", f"commonName={c}", fingerprint(certs, c), 1 + 3) for c in (1, 2)]
    assert server.sql(f"{REFUSED} OR outcome = 'failed'") == []


def test_a_trainer_that_dies_behind_its_stunnel_is_a_drop_out(start: Start, certs: Path, tmp_path: Path) -> None:
    certificates(certs, "--client", "3")
    data = write_fldata(tmp_path / "FLdata", (1, 2, 3), samples=100)
    server = start("--num-rounds", "2", "--min-clients", "3", *FAST, *mutual(certs))
    with ExitStack() as stack:
        one, two, three = (stack.enter_context(behind(server, certs, client)) for client in (1, 2, 3))
        stack.enter_context(trainers(one, data, 1))
        stack.enter_context(trainers(two, data, 2))
        with pytest.raises(AssertionError), trainers(three, data, 3, die_at_round=2):
            pass
        assert server.exit_code() == 0  # a round's deadline would be an hour away
    assert server.sql("SELECT round, updates_accepted FROM v1_rounds WHERE round > 0") == [(1, 3), (2, 2)]
    participation = server.sql("SELECT participation FROM v1_client_rounds WHERE client_id = '3' ORDER BY round")
    assert participation == [("answered",), ("dropped",)]
    assert server.sql("SELECT left_reason FROM v1_clients WHERE client_id = '3'") == [("closed",)]


def test_a_trainer_or_a_stunnel_that_is_killed_is_noticed_at_once(start: Start, certs: Path) -> None:
    server = start(*LARGE, *mutual(certs))
    with behind(server, certs, 1) as tunnel, behind(server, certs, 2) as killed:
        with Peer(tunnel.port, 1).join() as dead, Peer(killed.port, 2).join() as orphan:
            orphan.model()
            dead.connection.close()  # its model is unread: the trainer's system answers with a reset
            server.wait_for_line("client 1 left: closed")
            killed.process.kill()
            server.wait_for_line("client 2 left: closed")
            with pytest.raises(EOFError):
                orphan.message()
    assert server.terminate() == 3


def test_every_byte_of_an_upload_arrives_although_the_trainer_closes_behind_it(start: Start, certs: Path) -> None:
    server = start(*LARGE, *mutual(certs))
    with behind(server, certs, 1, "TIMEOUTclose = 1") as tunnel, behind(server, certs, 2, "TIMEOUTclose = 1") as other:
        with Peer(tunnel.port, 1).join() as one, Peer(other.port, 2).join() as two:
            for peer in (one, two):
                body = peer.body(peer.model())
                with peer.connect() as upload:
                    send(upload, body)
            assert server.exit_code() == 0
            # Only now the trainers read the last message: stunnel has given their connections up.
            for peer, at in ((one, tunnel), (two, other)):
                at.wait_for_line("Connection closed", count=2)
                peer.finished()
    uploads = server.sql("SELECT bytes, outcome FROM v1_messages WHERE direction = 'in' AND header = '<MODEL>'")
    assert uploads == [(len(body) + 8, "ok")] * 2
    assert len(body) > 4_000_000
    assert server.sql("SELECT COUNT(*) FROM v1_updates WHERE decision = 'accepted'") == [(2,)]


def test_an_upload_outlives_the_time_that_stunnel_waits_for_an_end(start: Start, certs: Path) -> None:
    server = start("--num-rounds", "1", "--min-clients", "2", *FAST, *mutual(certs))
    with behind(server, certs, 1, "TIMEOUTclose = 1") as tunnel, behind(server, certs, 2) as other:
        with Peer(tunnel.port, 1).join() as one, Peer(other.port, 2).join() as two:
            body = one.body(one.model())
            with one.connect() as upload:
                tunnel.wait_for_line("TLS connected", count=2)
                os.kill(server.process.pid, signal.SIGSTOP)  # as a server that is busy with others
                send(upload, body)
            tunnel.wait_for_line("TIMEOUTclose exceeded")
            os.kill(server.process.pid, signal.SIGCONT)
            two.answer()
            for peer in (one, two):
                peer.finished()
    assert server.exit_code() == 0
    assert server.sql("SELECT COUNT(*) FROM v1_updates WHERE decision = 'accepted'") == [(2,)]


def test_certificates_are_renewed_while_both_ends_run(start: Start, certs: Path) -> None:
    server = start("--num-rounds", "2", "--min-clients", "2", *FAST, *mutual(certs))
    old = fingerprint(certs, 1)
    with behind(server, certs, 1) as tunnel, behind(server, certs, 2) as other:
        with Peer(tunnel.port, 1).join() as one, Peer(other.port, 2).join() as two:
            one.answer()
            two.answer()
            certificates(certs, "--server", "flserver.example", "--client", "1", "--renew")
            server.process.send_signal(signal.SIGHUP)
            server.wait_for_sql("SELECT 1 FROM v1_operator_events WHERE kind = 'reload'")
            model = one.model()
            one.upload(model)  # its stunnel does not know yet
            tunnel.hang_up()
            tunnel.wait_for_line("Service .* bound to", count=2)  # who connects meanwhile is reset
            one.upload(model)
            two.answer()
            for peer in (one, two):
                peer.finished()
    assert server.exit_code() == 0
    ((reason,),) = server.sql(REFUSED)
    assert f"certificate {old}" in reason
    assert reason.endswith("is not the one that the roster has for client 1")
    used = server.sql(
        "SELECT certificate_fingerprint FROM v1_connections JOIN v1_updates USING (connection_id) "
        "WHERE v1_updates.client_id = '1' AND decision = 'accepted' ORDER BY update_id"
    )
    assert used == [(old,), (fingerprint(certs, 1),)]
    assert old != fingerprint(certs, 1)


def folder_of(path: Path, own: Pair, ca: Path) -> Path:
    """A client's folder, of certificates that ``ops/certificates`` would not make."""
    path.mkdir()
    for source, name in ((own.cert, "client.crt"), (own.key, "client.key"), (ca, "ca.crt")):
        shutil.copy(source, path / name)
    return path


@pytest.mark.parametrize(
    ("server_is", "client_is", "at_the_trainer", "at_the_server"),
    [
        ("from another CA", "good", "unable to get local issuer certificate", "the TLS handshake: unknown ca"),
        ("expired", "good", "certificate has expired", "the TLS handshake: certificate expired"),
        ("called otherwise", "good", "Subject checks failed", "the TLS handshake: internal error"),
        # What the server says of it may or may not arrive before the end of the connection.
        ("good", "from another CA", "Connection (closed/)?reset", "the certificate was not accepted: unable to get"),
        ("good", "expired", "Connection (closed/)?reset", "the certificate was not accepted: certificate has expired"),
    ],
)  # fmt: skip
def test_both_logs_say_what_is_wrong_with_a_certificate(
    start: Start, tmp_path: Path, server_is: str, client_is: str, at_the_trainer: str, at_the_server: str
) -> None:
    ours, others = Authority(tmp_path / "ours"), Authority(tmp_path / "others")
    pair = {
        "good": lambda: ours.server("flserver.example"),
        "from another CA": lambda: others.server("flserver.example"),
        "expired": lambda: ours.expired_server("flserver.example"),
        "called otherwise": lambda: ours.server("another.example"),
    }[server_is]()
    own = {
        "good": lambda: ours.client("1"),
        "from another CA": lambda: others.client("1"),
        "expired": lambda: ours.expired_client("1"),
    }[client_is]()
    served = ("--tls-cert", str(pair.cert), "--tls-key", str(pair.key), "--tls-client-ca", str(ours.path))
    server = start("--num-rounds", "1", *served)
    folder = folder_of(tmp_path / "client", own, ours.path)
    with Stunnel(server.port, folder, "flserver.example") as tunnel:
        with pytest.raises(ConnectionError), Peer(tunnel.port, 1) as peer:
            peer.register()
        ((reason,),) = server.wait_for_sql(REFUSED)
        tunnel.wait_for_line(at_the_trainer)
    assert at_the_server in reason
    assert server.terminate() == 3


def test_a_client_cannot_pose_as_the_server_even_with_its_name_as_id(start: Start, certs: Path) -> None:
    certificates(certs, "--client", "flserver.example")
    poser = certs / "clients" / "flserver.example"
    server = start("--num-rounds", "1", "--tls-cert", str(poser / "client.crt"), "--tls-key", str(poser / "client.key"))
    with behind(server, certs, 1) as tunnel:
        with pytest.raises(ConnectionError), Peer(tunnel.port, 1) as peer:
            peer.register()
        tunnel.wait_for_line("unsuitable certificate purpose")
    assert server.terminate() == 3


def test_stunnel_is_patient_for_weeks_and_no_longer_than_it_can_count() -> None:
    """It waits with poll(), whose milliseconds are a signed 32-bit number."""
    text = (OPS / "stunnel" / "trainer.conf").read_text()
    (seconds,) = re.findall(r"(?m)^TIMEOUTidle = (\d+)$", text)
    assert 20 * 86_400 < int(seconds) < 2**31 // 1000


def shown(port: int) -> str | None:
    """The newest head, once there is one."""
    with suppress(NoHead):
        return fetcher(f"http://localhost:{port}")(0)
    return None


@pytest.mark.haproxy
def test_unchanged_trainers_through_haproxy_have_their_addresses(start: Start, certs: Path, tmp_path: Path) -> None:
    data = write_fldata(tmp_path / "FLdata", (1, 2), samples=100)
    log = PrivateKey.generate("log.example/a")
    log.write(tmp_path / "key")
    options = ("--trusted-proxy", "127.0.0.1", "--sign-key", "key")
    server = start("--num-rounds", "2", "--min-clients", "2", *FAST, *options)
    folders = [certs / "clients" / str(client) for client in (1, 2)]
    with HaProxy(server, certs) as proxy, ExitStack() as stack:
        for client, folder in enumerate(folders, 1):
            tunnel = stack.enter_context(
                Stunnel(proxy.port, folder, "flserver.example", f"local = 127.0.0.{client + 1}")
            )
            # The site's witness goes the same way as its trainer.
            head = eventually(lambda port=tunnel.port: shown(port), lambda: server.log, pause=0.5)
            assert opened(Extension.parse(head).head, log.public).size > 0
            stack.enter_context(trainers(tunnel, data, client))
        assert server.exit_code() == 0
        proxy.wait_for_line(r' 127\.0\.0\.2:\d+ "1" ', count=3)
    assert server.sql("SELECT DISTINCT client_id, peer_host, proxy_host FROM v1_connections ORDER BY 1") == [
        ("1", "127.0.0.2", "127.0.0.1"),
        ("2", "127.0.0.3", "127.0.0.1"),
    ]
    assert server.sql("SELECT decision, identity, COUNT(*) FROM v1_updates GROUP BY 1, 2") == [
        ("accepted", "claimed", 4)
    ]
    assert server.sql(f"{REFUSED} OR outcome = 'failed'") == []


@pytest.mark.haproxy
def test_haproxy_lets_nobody_in_without_a_certificate(start: Start, certs: Path, tmp_path: Path) -> None:
    others = Authority(tmp_path / "others")
    server = start("--num-rounds", "1", "--min-clients", "2", *FAST, "--trusted-proxy", "127.0.0.1")
    stranger = folder_of(tmp_path / "stranger", others.client("1"), certs / "ca.crt")
    with HaProxy(server, certs) as proxy, Stunnel(proxy.port, stranger, "flserver.example") as tunnel:
        with pytest.raises((ConnectionError, EOFError)), Peer(tunnel.port, 1) as peer:
            peer.register()
        proxy.wait_for_line("refused: .*certificate verify failed")
    server.wait_for_line("state: joining")  # the record is there
    assert server.sql("SELECT COUNT(*) FROM v1_connections") == [(0,)]
    assert server.terminate() == 3
