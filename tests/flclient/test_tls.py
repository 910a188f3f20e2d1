"""The trainer over TLS: whole runs, and who does not trust whom."""

import socket

import pytest

from tests.flclient.plain_server import PlainServer
from tests.flclient.tls_server import VERSIONS, TlsServer, one_round, refused_handshake, server_context
from tests.hosts import needs_ipv6


def own(pair):
    return "--tls-cert", pair.cert, "--tls-key", pair.key


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_a_run_over_tls(trainer, ca, version, host):
    with TlsServer(one_round, server_context(ca.server(), version=version)) as server:
        code, out, err = trainer(server.port, "--host", host)
    assert (code, err) == (0, "")
    assert out.endswith("the run is over; models trained: 1\n")
    assert server.peer_certs == [None, None], "the first connection and the upload; no certificate was asked for"


@needs_ipv6
@pytest.mark.parametrize("host", ["::1", "[::1]", "::1%1"])
def test_a_certificate_for_an_ipv6_address_has_no_brackets_and_no_zone(trainer, ca, host):
    with TlsServer(one_round, server_context(ca.server("::1")), family=socket.AF_INET6, host="::1") as server:
        code, _, err = trainer(server.port, "--host", host)
    assert (code, err) == (0, "")


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("in_one_file", [False, True])
def test_under_mutual_tls_both_connections_show_the_clients_certificate(trainer, ca, version, in_one_file):
    pair = ca.client("site-3")
    arguments = ("--tls-cert", pair.in_one_file()) if in_one_file else own(pair)
    with TlsServer(one_round, server_context(ca.server(), ca, version)) as server:
        code, _, err = trainer(server.port, *arguments)
    assert (code, err) == (0, "")
    names = [dict(part for (part,) in cert["subject"])["commonName"] for cert in server.peer_certs]
    assert names == ["site-3", "site-3"]


def test_nothing_older_than_tls_1_2_is_offered(trainer):
    hellos = []

    def script(server):
        hellos.append(server.accept().recv(2**14))
        server._open[-1].close()

    with PlainServer(script) as server:
        trainer(server.port)
    offered = bytes.fromhex("002b 0005 04 0304 0303")  # supported_versions: four bytes, 1.3 and 1.2
    assert offered in hellos[0]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    ("made", "reason"),
    [
        (lambda ca, other: other.server(), "the server's certificate is from no CA in --tls-ca"),
        (lambda ca, other: ca.expired_server(), "the server's certificate is not valid: certificate has expired"),
        (lambda ca, other: ca.early_server(), "the server's certificate is not valid: certificate is not yet valid"),
        (
            lambda ca, other: ca.server("example.org", "127.0.0.1"),
            "the server's certificate is not for the name localhost: see --host",
        ),
    ],
)
def test_a_server_that_is_not_trusted_is_one_line_and_not_tried_again(trainer, ca, other_ca, version, made, reason):
    with TlsServer(refused_handshake, server_context(made(ca, other_ca), version=version)) as server:
        code, _, err = trainer(server.port)
    assert (code, err) == (1, f"flclient: {reason}\n")


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    ("made", "reason"),
    [
        (lambda ca, other: other.client("3"), "unknown ca"),
        (lambda ca, other: ca.expired_client("3"), "certificate expired"),
        (lambda ca, other: ca.early_client("3"), "bad certificate"),
    ],
)
def test_a_certificate_that_the_server_rejects_is_one_line_and_not_tried_again(
    trainer, ca, other_ca, version, made, reason
):
    with TlsServer(refused_handshake, server_context(ca.server(), ca, version)) as server:
        code, _, err = trainer(server.port, *own(made(ca, other_ca)))
    assert code == 1
    assert err == f"flclient: the server does not accept this client's certificate ({reason}): see --tls-cert\n"


@pytest.mark.parametrize(
    ("version", "reason"),
    [
        (VERSIONS[0], "the server refuses the TLS handshake; it may demand a certificate: give --tls-cert"),
        (VERSIONS[1], "the server demands a certificate: give --tls-cert"),
    ],
)
def test_a_certificate_that_is_demanded_and_not_given_is_one_line_and_not_tried_again(trainer, ca, version, reason):
    with TlsServer(refused_handshake, server_context(ca.server(), ca, version)) as server:
        code, _, err = trainer(server.port)
    assert (code, err) == (1, f"flclient: {reason}\n")
