"""TLS and mutual TLS on real sockets, with certificates made here; each thing that can be wrong has its one reason."""

import contextlib
import hashlib
import os
import signal
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import warm
from tests.certificates import Authority, Pair
from tests.e2e.conftest import Start
from tests.e2e.harness import FAST, TESTS, Peer, ServerProcess, closed, connect
from tests.e2e.tls_peers import TlsPeer, served, trusting
from tests.patience import PATIENCE

REFUSED = "SELECT reason FROM v1_messages WHERE outcome = 'refused' ORDER BY message_id"


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "ca")


def fingerprint(pair: Pair) -> str:
    return "sha256:" + hashlib.sha256(ssl.PEM_cert_to_DER_cert(pair.cert.read_text())).hexdigest()


@contextlib.contextmanager
def joined(server: ServerProcess, *clients: tuple[object, ssl.SSLContext]) -> Iterator[list[TlsPeer]]:
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(TlsPeer(server, client_id, context)).join() for client_id, context in clients]


def play(peers: list[TlsPeer], rounds: int) -> None:
    for _ in range(rounds):
        for peer in peers:
            peer.answer(0.5)
    for peer in peers:
        peer.finished()


def test_a_run_over_tls(start: Start, authority: Authority) -> None:
    server = start("--num-rounds", "2", "--min-clients", "2", *FAST, *served(authority, mutual=False))
    with joined(server, *((client, trusting(authority)) for client in (1, 2))) as peers:
        play(peers, rounds=2)
    assert server.exit_code() == 0
    assert server.sql("SELECT DISTINCT transport, certificate_subject FROM v1_connections") == [("tls", None)]
    assert server.sql("SELECT DISTINCT identity FROM v1_clients") == [("claimed",)]
    assert server.sql("SELECT COUNT(*) FROM v1_updates WHERE decision = 'accepted'") == [(4,)]


def test_under_mutual_tls_every_contribution_is_authenticated(start: Start, authority: Authority) -> None:
    server = start("--num-rounds", "2", "--min-clients", "2", *FAST, *served(authority, mutual=True))
    own = {client: authority.client(client) for client in ("site-1", "2")}
    with joined(server, *((client, trusting(authority, pair)) for client, pair in own.items())) as peers:
        play(peers, rounds=2)
    assert server.exit_code() == 0
    rows = server.sql("SELECT client_id, certificate_subject, certificate_fingerprint FROM v1_connections")
    for client, subject, found in rows:
        assert f"commonName={client}" in subject
        assert found == fingerprint(own[client])
    assert len(rows) == 2 + 4
    assert server.sql("SELECT DISTINCT identity FROM v1_clients") == [("authenticated",)]
    assert server.sql("SELECT decision, identity, COUNT(*) FROM v1_updates GROUP BY 1, 2") == [
        ("accepted", "authenticated", 4)
    ]


def test_what_a_certificates_subject_says_is_harmless_on_record_and_in_the_log(
    start: Start, authority: Authority
) -> None:
    server = start("--num-rounds", "1", "--min-clients", "2", *FAST, *served(authority, mutual=True))
    nasty = ("\x1b[2J\x07", "a\r\n2026-01-01 INFO all is well", "\u202egnp.exe\u2028", "c\x7f\x85")
    escaped = ("\\x1b[2J\\x07", "a\\r\\n2026-01-01 INFO all is well", "\\u202egnp.exe\\u2028", "c\\x7f\\x85")
    pairs = [authority.client(client, said) for client, said in zip("ab", nasty[:2], strict=True)]
    honest = [(client, trusting(authority, pair)) for client, pair in zip("ab", pairs, strict=True)]
    with joined(server, *honest) as peers:
        for said in nasty[2:]:  # of those who name somebody else
            with TlsPeer(server, "c", trusting(authority, authority.client("d\x1b", said))) as liar:
                assert liar.register()["header"] == "<ERROR>"
        play(peers, rounds=1)
    assert server.exit_code() == 0
    subjects = [row[0] for row in server.sql("SELECT DISTINCT certificate_subject FROM v1_connections")]
    assert len(subjects) == 4
    for said in escaped:
        assert sum(f"organizationName={said}" in subject for subject in subjects) == 1
    told = [reason for (reason,) in server.sql("SELECT reason FROM v1_messages WHERE reason IS NOT NULL")]
    assert len(told) == 2
    for text in (*subjects, *told, *server.lines):
        assert text.isprintable(), text
    assert server.sql("SELECT decision, COUNT(*) FROM v1_updates GROUP BY 1") == [("accepted", 2)]


def test_our_own_trainer_speaks_it_too(start: Start, authority: Authority) -> None:
    server = start("--num-rounds", "2", "--min-clients", "2", *FAST, *served(authority, mutual=True))
    command = ["-m", "flclient", "--server-port", str(server.port), "--dataset", "digits"]
    command += ["--num-clients", "2", "--epochs", "1", "--tls-ca", str(authority.path)]
    trainers = []
    with contextlib.ExitStack() as stack:
        for client in ("1", "2"):
            own = authority.client(client)
            shown = ["--client-id", client, "--tls-cert", str(own.cert), "--tls-key", str(own.key)]
            streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL}
            trainers.append(warm.start([*command, *shown], cwd=TESTS.parent, env=os.environ, **streams))
            stack.callback(trainers[-1].wait)
            stack.callback(trainers[-1].kill)
        assert [trainer.wait(PATIENCE) for trainer in trainers] == [0, 0]
    assert server.exit_code() == 0
    assert server.sql("SELECT decision, identity, COUNT(*) FROM v1_updates GROUP BY 1, 2") == [
        ("accepted", "authenticated", 4)
    ]


def fails(peer: TlsPeer) -> bool:
    """Whether the server lets a peer that has begun to speak go without an answer, or with a TLS alert."""
    try:
        peer.register()
    except (ssl.SSLError, EOFError, ConnectionError):
        return True
    return False


def test_what_is_wrong_with_a_certificate_has_its_reason(start: Start, authority: Authority, tmp_path: Path) -> None:
    stranger = Authority(tmp_path / "other")
    server = start("--num-rounds", "1", "--min-clients", "2", *FAST, *served(authority, mutual=True))
    wrong = [
        (stranger.client("3"), "the certificate was not accepted: unable to get local issuer certificate"),
        (authority.expired_client("3"), "the certificate was not accepted: certificate has expired"),
        (authority.early_client("3"), "the certificate was not accepted: certificate is not yet valid"),
        (None, "no certificate was shown, and --tls-client-ca asks for one"),
    ]
    with joined(server, *((c, trusting(authority, authority.client(c))) for c in ("1", "2"))) as peers:
        for pair, _ in wrong:
            with (
                contextlib.suppress(ssl.SSLError, ConnectionError),
                TlsPeer(server, 3, trusting(authority, pair)) as peer,
            ):
                assert fails(peer)
        with TlsPeer(server, 3, trusting(authority, authority.client("4"))) as peer:
            answer = peer.register()
        assert answer["header"] == "<ERROR>"
        assert "the certificate is client 4's, the message says client 3" in answer["msg"]
        with TlsPeer(server, 1, trusting(authority, authority.client("2"))) as peer:
            model = peers[0].model()
            peer.upload(model)  # 2's certificate, 1's name
        peers[0].upload(model)
        peers[1].answer()
        for peer in peers:
            peer.finished()
    assert server.exit_code() == 0
    reasons = [reason for (reason,) in server.sql(REFUSED)]
    assert reasons[: len(wrong)] == [reason for _, reason in wrong]
    assert reasons[-1] == "the certificate is client 2's, the message says client 1"
    assert server.sql("SELECT client_id, decision FROM v1_updates ORDER BY 1") == [("1", "accepted"), ("2", "accepted")]
    assert "Traceback" not in server.log


def test_plain_text_on_the_tls_port(start: Start, authority: Authority) -> None:
    server = start("--num-rounds", "1", *FAST, *served(authority, mutual=False))
    with Peer(server, 1) as plain:
        plain.connection.sendall(b"\0\0\0\0\0\0\0\x10{}")
        assert plain.connection.recv(100) == b"\x15\x03\x01\x00\x02\x02\x46", "an alert, by which it can tell"
        assert closed(plain.connection)
    with connect(server.port) as browser:
        browser.sendall(b"GET / HTTP/1.1\r\n\r\n")
        while browser.recv(100):
            pass
    with connect(server.port) as broken:
        broken.sendall(b"\x16\x03\x01\x00\x05hello")
        while broken.recv(100):  # an alert
            pass
    with connect(server.port) as gone:
        gone.sendall(b"\x16\x03\x01")
    rows = server.wait_for_sql(f"{REFUSED} LIMIT 1 OFFSET 2")
    assert "the TLS handshake failed: " in rows[0][0]
    first, second = server.sql(REFUSED)[:2]
    assert first[0].startswith("plain text on a port that speaks TLS (the bytes are b'\\x00")
    assert "b'GET / HT'" in second[0]
    closings = server.wait_for_sql("SELECT close_reason FROM v1_connections WHERE close_reason LIKE 'end of file%'")
    assert closings == [("end of file in the middle of the TLS handshake",)]
    assert server.terminate() == 3
    assert "Traceback" not in server.log


def test_tls_on_the_plain_port(start: Start, authority: Authority) -> None:
    server = start("--num-rounds", "1", *FAST)
    with pytest.raises((ssl.SSLError, ConnectionError)), TlsPeer(server, 1, trusting(authority)):
        pass
    ((reason,),) = server.wait_for_sql(REFUSED)
    assert "a TLS handshake, on a port without --tls-cert" in reason
    assert server.terminate() == 3


def test_who_says_nothing_and_who_stalls_in_the_handshake_is_let_go(start: Start, authority: Authority) -> None:
    options = ("--num-rounds", "1", "--first-frame-timeout", "2", *FAST)
    server = start(*options, *served(authority, mutual=False))
    server.wait_for_line("state: joining")
    with connect(server.port) as silent, connect(server.port) as stalling:
        stalling.sendall(b"\x16\x03\x01\x02\x00")
        assert closed(silent)
        assert closed(stalling)
    server.wait_for_sql("SELECT 1 FROM v1_connections WHERE closed_at IS NOT NULL LIMIT 1 OFFSET 1")
    reasons = server.sql("SELECT close_reason FROM v1_connections ORDER BY close_reason")
    assert reasons == [("timed out before the TLS handshake",), ("timed out in the middle of the TLS handshake",)]
    assert server.terminate() == 3


def test_sighup_reads_the_certificates_again(start: Start, authority: Authority, tmp_path: Path) -> None:
    first, second = authority.server(), authority.server()
    cert, key = tmp_path / "server.pem", tmp_path / "server.key"

    def install(pair: Pair) -> None:
        cert.write_bytes(pair.cert.read_bytes())
        key.write_bytes(pair.key.read_bytes())

    def shown(server: ServerProcess) -> str:
        with connect(server.port) as plain, trusting(authority).wrap_socket(plain, server_hostname="localhost") as tls:
            return "sha256:" + hashlib.sha256(tls.getpeercert(binary_form=True) or b"").hexdigest()

    def hang_up(server: ServerProcess, detail: str) -> None:
        os.kill(server.process.pid, signal.SIGHUP)
        server.wait_for_sql("SELECT 1 FROM v1_operator_events WHERE kind = 'reload' AND detail LIKE ?", f"%{detail}%")

    install(first)
    server = start("--num-rounds", "1", "--min-clients", "2", "--tls-cert", str(cert), "--tls-key", str(key), *FAST)
    with joined(server, (1, trusting(authority))) as peers:
        assert shown(server) == fingerprint(first)
        install(second)
        hang_up(server, fingerprint(second))
        assert shown(server) == fingerprint(second)
        cert.write_text("no certificate")
        hang_up(server, "refused")
        server.wait_for_line("SIGHUP: nothing is changed: --tls-cert")
        assert shown(server) == fingerprint(second), "what was in force stays"
        with joined(server, (2, trusting(authority))) as more:
            play([*peers, *more], rounds=1)  # who was in stays in
    assert server.exit_code() == 0


def test_a_large_model_travels_over_tls_and_its_trainer_sees_the_end(start: Start, authority: Authority) -> None:
    """Many records each way, and <FINISHED> is read although the server closes right behind it."""
    server = start(
        "--num-rounds", "2", "--min-clients", "1", "--model", "torchvision:squeezenet1_1", *FAST,
        *served(authority, mutual=False),
    )  # fmt: skip
    with joined(server, (1, trusting(authority))) as peers:
        play(peers, rounds=2)
    assert server.exit_code() == 0
    sizes = server.sql("SELECT MIN(bytes), COUNT(*) FROM v1_messages WHERE header = '<MODEL>' AND outcome = 'ok'")
    assert sizes[0][0] > 4_000_000
    assert sizes[0][1] == 4
