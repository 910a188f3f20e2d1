"""Who is let in: what does not fit together is said in one line, before anything begins."""

import socket
from pathlib import Path

import pytest

from flserver.errors import UsageError
from flserver.identity.roster import Member, Roster
from flserver.network.admission import Admission, check_host, check_min_clients
from flserver.settings import server_settings
from tests.certificates import Authority


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("admission")
    authority = Authority(folder / "ca")
    pair, other = authority.server(), authority.server()
    for name, source in (
        ("cert.pem", pair.cert),
        ("key.pem", pair.key),
        ("other.key", other.key),
        ("both.pem", pair.in_one_file()),
        ("locked.key", pair.locked(b"secret").key),
        ("ca.pem", authority.path),
    ):
        (folder / name).write_bytes(source.read_bytes())
    (folder / "text.pem").write_text("Dear diary")
    (folder / "names.csv").write_text("id\n1\n2\n")
    (folder / "prints.csv").write_text(f"id,fingerprint\n1,{'ab' * 32}\n")
    return folder


def admission(folder: Path, arguments: str) -> Admission:
    """Of settings as ``key=value``; values with a dot are files in the folder."""
    given: dict[str, object] = {}
    for argument in arguments.split():
        key, _, value = argument.partition("=")
        given[key] = int(value) if value.isdigit() else str(folder / value) if "." in value else value
    return Admission(server_settings(given))


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ("tls_key=key.pem", "need --tls-cert"),
        ("tls_client_ca=ca.pem", "need --tls-cert"),
        ("upload_from=certificate", "--upload-from certificate needs --tls-client-ca"),
        ("upload_from=certificate tls_cert=both.pem", "--upload-from certificate needs --tls-client-ca"),
        ("tls_cert=cert.pem", "cert.pem: there is no key in it: give --tls-key"),
        ("tls_cert=none.pem tls_key=key.pem", "--tls-cert .*none.pem .*: No such file"),
        ("tls_cert=cert.pem tls_key=none.key", "--tls-key .*none.key: No such file"),
        ("tls_cert=cert.pem tls_key=other.key", "the key is not the certificate's"),
        ("tls_cert=text.pem tls_key=key.pem", "text.pem .*: no PEM file"),
        ("tls_cert=cert.pem tls_key=locked.key", "locked.key: .*a key with a password"),
        ("tls_cert=both.pem tls_client_ca=text.pem", "--tls-client-ca .*text.pem: no PEM file"),
        ("tls_cert=both.pem tls_client_ca=none.pem", "--tls-client-ca .*none.pem: No such file"),
        ("clients=none.csv", "cannot read --clients"),
        ("clients=prints.csv", "fingerprints: they need --tls-client-ca"),
        ("clients=names.csv min_clients=3", "--min-clients 3: only 2 are on the roster"),
        ("trusted_proxy=somewhere", "--trusted-proxy somewhere: 'somewhere' does not appear to be"),
        ("trusted_proxy=10/8", "--trusted-proxy 10/8"),
        ("trusted_proxy=::ffff:a00:0/104", "as IPv4"),
    ],
)
def test_what_does_not_fit_together(files: Path, arguments: str, reason: str) -> None:
    with pytest.raises(UsageError, match=reason) as caught:
        admission(files, arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "upload_from"),
    [
        ("", "same-address"),
        ("tls_cert=both.pem", "same-address"),
        ("tls_cert=cert.pem tls_key=key.pem tls_client_ca=ca.pem", "certificate"),
        ("tls_cert=both.pem tls_client_ca=ca.pem clients=prints.csv upload_from=any", "any"),
        ("clients=names.csv min_clients=2", "same-address"),
    ],
)
def test_what_does(files: Path, arguments: str, upload_from: str) -> None:
    assert admission(files, arguments).identity.upload_from == upload_from


def test_trusted_forwarders(files: Path) -> None:
    trusting = Admission(server_settings({"trusted_proxy": "10.0.0.0/8, 192.0.2.1,fd00::/8"})).preamble
    hosts = ("10.200.0.1", "192.0.2.1", "192.0.2.2", "fd00::7", "127.0.0.1", "::1", "fe80::1%eth0")
    assert [trusting.trusts(host) for host in hosts] == [True, True, False, True, False, False, False]
    assert not admission(files, "").preamble.trusts("127.0.0.1")


@pytest.mark.parametrize(
    ("host", "open_to_all"),
    [
        ("127.0.0.1", False),
        ("127.9.9.9", False),
        ("::1", False),
        ("[::1]", False),
        ("::1%1", False),
        ("::ffff:127.0.0.1", False),
        ("localhost", False),
        ("0.0.0.0", True),
        ("::", True),
        ("", True),
        ("[::]", True),
        ("10.0.0.1", True),
        ("fe80::1%1", True),
        ("flserver.example", True),
    ],
)
def test_only_loopback_is_open_without_tls(host: str, open_to_all: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    known = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 0))]  # as it resolves today
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: known)
    network = server_settings({"host": host}).network
    check_host(network, tls=True)
    check_host(server_settings({"host": host, "insecure": True}).network, tls=False)
    if open_to_all:
        with pytest.raises(UsageError, match="without TLS this needs --insecure"):
            check_host(network, tls=False)
    else:
        check_host(network, tls=False)


@pytest.mark.parametrize("host", ["0.0.0.0", "10.0.0.1", "[::]", ""])
def test_where_anybody_can_reach_the_port_a_new_run_says_how_many_it_begins_with(host: str) -> None:
    open_to_all = server_settings({"host": host, "insecure": True})
    with pytest.raises(UsageError, match=r"whoever reaches this port may register.*as in --min-clients 3"):
        check_min_clients(open_to_all, said=False, resumed=False)
    assert check_min_clients(open_to_all, said=True, resumed=False) is None
    warning = check_min_clients(open_to_all, said=False, resumed=True)
    assert warning is not None
    assert "goes on with one client alone" in warning
    assert check_min_clients(server_settings({"host": host, "min_clients": 2}), said=False, resumed=True) is None


@pytest.mark.parametrize(
    "guard", [{"host": "127.0.0.1"}, {"host": "::1"}, {"clients": "roster.csv"}, {"tls_client_ca": "ca.crt"}]
)
def test_a_roster_certificates_or_loopback_guard_it(guard: dict[str, str]) -> None:
    guarded = server_settings({"host": "0.0.0.0"} | guard)
    assert check_min_clients(guarded, said=False, resumed=False) is None


def test_tls_without_certificates_of_trainers_guards_nothing() -> None:
    with pytest.raises(UsageError, match="--tls-client-ca or --clients"):
        check_min_clients(server_settings({"host": "0.0.0.0", "tls_cert": "server.crt"}), said=False, resumed=False)


def test_no_more_clients_are_waited_for_than_there_are_places() -> None:
    Admission(server_settings({"min_clients": 4, "max_connections": 8}))
    with pytest.raises(UsageError, match="--min-clients 5: --max-connections 8 has places for half as many"):
        Admission(server_settings({"min_clients": 5, "max_connections": 8}))


def test_a_name_that_does_not_resolve_is_told_before_the_lack_of_tls() -> None:
    with pytest.raises(UsageError, match=r"^--host no-such-host\.invalid does not resolve"):
        check_host(server_settings({"host": "no-such-host.invalid"}).network, tls=False)


def test_a_reload_that_fails_changes_nothing(files: Path, tmp_path: Path) -> None:
    roster, cert = tmp_path / "clients.csv", tmp_path / "cert.pem"
    roster.write_text("id\n1\n")
    cert.write_bytes((files / "both.pem").read_bytes())
    admitted = Admission(server_settings({"clients": str(roster), "tls_cert": str(cert)}))
    before = admitted.describe()
    roster.write_text("id\n1\n2\n")
    cert.write_text("broken")
    with pytest.raises(UsageError):
        admitted.reload()
    assert admitted.describe() == before
    cert.write_bytes((files / "both.pem").read_bytes())
    admitted.reload()
    assert [member["client_id"] for member in admitted.describe()["clients"]] == ["1", "2"]


def test_a_node_has_its_servers_roster_whatever_the_file_has_become(tmp_path: Path) -> None:
    (tmp_path / "names.csv").write_text("no roster any more")
    settings = server_settings({"clients": str(tmp_path / "names.csv"), "min_clients": 3})
    admitted = Admission(settings, Roster([Member(client_id="1")]))
    assert [member.client_id for member in admitted.identity.roster or ()] == ["1"]
    admitted.reload(Roster([Member(client_id="7")]))
    assert [member.client_id for member in admitted.identity.roster or ()] == ["7"]
