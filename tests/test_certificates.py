"""``ops/certificates``: what it makes holds for OpenSSL's strict verification, and it overwrites nothing."""

import hashlib
import ssl
import stat
import subprocess
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

from flserver.identity.roster import read_roster
from tests.patience import PATIENCE

COMMAND = Path(__file__).resolve().parent.parent / "ops" / "certificates"


def run(*words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([COMMAND, *map(str, words)], capture_output=True, text=True, timeout=PATIENCE)


def make(*words: object) -> list[str]:
    """Make certificates, and return what was printed."""
    done = run(*words)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout.splitlines()


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def fingerprint(certificate: Path) -> str:
    return "sha256:" + hashlib.sha256(ssl.PEM_cert_to_DER_cert(certificate.read_text())).hexdigest()


@pytest.fixture
def certs(tmp_path: Path) -> Path:
    """What the handbook's first command makes."""
    folder = tmp_path / "certs"
    make(folder, "--server", "flserver.example", "--server", "10.0.0.5", "--client", "site-1", "--client", "site-2")
    return folder


def handshake(server: ssl.SSLContext, client: ssl.SSLContext, name: str) -> ssl.SSLObject:
    """The server's end after a handshake in memory. Raises SSLError where either end refuses the other."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        client.wrap_bio(to_client, to_server, server_hostname=name),
        server.wrap_bio(to_server, to_client, server_side=True),
    ]
    for end in ends * 3:  # more than the turns that it takes
        try:
            end.do_handshake()
        except ssl.SSLWantReadError:
            continue
    assert ends[1].version() is not None
    return ends[1]


def contexts(certs: Path, server: str = "server", client: str = "clients/site-1/client") -> list[ssl.SSLContext]:
    """The two ends of mutual TLS, as strict as OpenSSL can be."""
    made = []
    for purpose, own in ((ssl.Purpose.CLIENT_AUTH, server), (ssl.Purpose.SERVER_AUTH, client)):
        context = ssl.create_default_context(purpose, cafile=certs / Path(own).parent / "ca.crt")
        context.load_cert_chain(certs / f"{own}.crt", certs / f"{own}.key")
        context.verify_mode = ssl.CERT_REQUIRED
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        made.append(context)
    return made


@pytest.mark.parametrize("name", ["flserver.example", "10.0.0.5"])
def test_both_ends_of_mutual_tls_are_content(certs: Path, name: str) -> None:
    end = handshake(*contexts(certs), name)
    told = end.getpeercert() or {}
    assert told["subject"] == ((("commonName", "site-1"),),)
    assert hashlib.sha256(end.getpeercert(binary_form=True) or b"").hexdigest() in (certs / "clients.csv").read_text()


@pytest.mark.parametrize(
    ("pairs", "name", "complaint"),
    [
        ({}, "another.example", "Hostname mismatch"),
        ({"server": "clients/site-2/client"}, "site-2", "unsuitable certificate purpose"),
        ({"client": "server"}, "flserver.example", "unsuitable certificate purpose"),
    ],
    ids=["another name", "a client as the server", "the server as a client"],
)
def test_a_certificate_is_good_for_one_thing(certs: Path, pairs: dict[str, str], name: str, complaint: str) -> None:
    with pytest.raises(ssl.SSLCertVerificationError, match=complaint):
        handshake(*contexts(certs, **pairs), name)


def test_what_is_in_the_certificates(certs: Path) -> None:
    ca, server, client = (
        x509.load_pem_x509_certificate((certs / path).read_bytes())
        for path in ("ca.crt", "server.crt", "clients/site-1/client.crt")
    )
    assert ca.extensions.get_extension_for_class(x509.BasicConstraints).critical
    assert ca.extensions.get_extension_for_class(x509.BasicConstraints).value == x509.BasicConstraints(True, 0)
    assert ca.extensions.get_extension_for_class(x509.KeyUsage).value.key_cert_sign
    for leaf, purpose in ((server, ExtendedKeyUsageOID.SERVER_AUTH), (client, ExtendedKeyUsageOID.CLIENT_AUTH)):
        leaf.verify_directly_issued_by(ca)
        assert not leaf.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
        assert not leaf.extensions.get_extension_for_class(x509.KeyUsage).value.key_cert_sign
        assert list(leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) == [purpose]
        assert (leaf.not_valid_after_utc - leaf.not_valid_before_utc).days == 365
        assert isinstance(leaf.public_key(), ec.EllipticCurvePublicKey)
    assert len({certificate.serial_number for certificate in (ca, server, client)}) == 3


def test_keys_are_for_their_owner_only(certs: Path) -> None:
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in [certs, *certs.rglob("*")]}
    assert {mode for path, mode in modes.items() if path.is_dir()} == {0o700}
    assert {mode for path, mode in modes.items() if path.suffix == ".key"} == {0o600}
    assert sorted(path.name for path in modes if path.suffix == ".key") == ["ca.key", *["client.key"] * 2, "server.key"]


def test_nothing_is_overwritten_and_later_calls_add(certs: Path) -> None:
    before = files(certs)
    for words in (["--client", "site-1"], ["--client", "site-3", "--client", "site-1"], ["--server", "b.example"]):
        refused = run(certs, *words)
        assert refused.returncode == 2
        assert "is there already; --renew makes a new one" in refused.stderr
        assert files(certs) == before
    (line,) = make(certs, "--client", "site-3", "--days", "30")
    after = files(certs)
    assert {name for name in after if before.get(name) != after[name]} == {
        "clients.csv",
        *(f"clients/site-3/{name}" for name in ("ca.crt", "client.crt", "client.key")),
    }
    assert line.startswith(f"client site-3 {fingerprint(certs / 'clients/site-3/client.crt')} {certs}")
    handshake(*contexts(certs, client="clients/site-3/client"), "flserver.example")


def test_the_roster_is_one_that_the_server_reads(certs: Path) -> None:
    make(certs, "--client", 'site-3=Hospital "Süd", Lund', "--client", "7=")
    roster = certs / "clients.csv"
    members = {member.client_id: member for member in read_roster(roster)}
    assert list(members) == ["site-1", "site-2", "site-3", "7"]
    assert {client: member.label for client, member in members.items()} == {
        "site-1": None, "site-2": None, "site-3": 'Hospital "Süd", Lund', "7": None,
    }  # fmt: skip
    for client, member in members.items():
        assert member.fingerprint == fingerprint(certs / "clients" / client / "client.crt")


def test_renewal_keeps_labels_and_the_old_files(certs: Path) -> None:
    roster = certs / "clients.csv"
    # As a spreadsheet writes it, with a comment, and one client taken out.
    rows = roster.read_text().replace("site-1,", "site-1,Lund").splitlines()[:2]
    roster.write_text("\ufeff" + "\r\n".join([rows[0], "# until May", rows[1]]) + "\r\n")
    before = files(certs)
    lines = make(certs, "--server", "c.example", "--client", "site-1", "--renew")
    assert [line.split()[0] for line in lines] == ["server", "client"]
    (member,) = read_roster(roster)
    assert member.label == "Lund"
    assert member.fingerprint == fingerprint(certs / "clients/site-1/client.crt") not in rows[1]
    assert "# until May" in roster.read_text()
    replaced = sorted((certs / "replaced").iterdir())
    assert [path.name.rpartition("-")[0] + path.suffix for path in replaced] == [
        *("client-site-1.crt", "client-site-1.key", "server.crt", "server.key")
    ]
    places = ("clients/site-1/client.crt", "clients/site-1/client.key", "server.crt", "server.key")
    assert [path.read_bytes() for path in replaced] == [before[place] for place in places]
    handshake(*contexts(certs), "c.example")


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ([], "which folder"),
        (["new"], "nothing to do"),
        (["new", "more", "--client", "1"], "one folder"),
        (["new", "--client"], "--client needs a value"),
        (["new", "--client", "../x"], "1 to 64 letters"),
        (["new", "--client", "a" * 65], "1 to 64 letters"),
        (["new", "--client", "a b"], "1 to 64 letters"),
        (["new", "--client", "a=two\nlines"], "a control character"),
        (["new", "--client", "a", "--client", "a=b"], "given twice"),
        (["new", "--client", "a", "--renew"], "no certificate for client a yet"),
        (["new", "--client", "a", "--days", "0"], "--days 0"),
        (["new", "--client", "a", "--day", "1"], "no such option: --day"),
        (["new", "--server", "10.0.0.256"], "not an address"),
        (["new", "--server", "1:2"], "openssl: "),
        (["new", "--server", "a.example,DNS:b"], "not an address"),
        (["new", "--server", "a_b.example/x"], "not a host name"),
        (["used", "--client", "a"], "has files but no CA"),
        (["half", "--client", "a"], "are not a certificate and its key"),
        (["used/note", "--client", "a"], "has files but no CA"),
        (["table", "--client", "a"], "the first line is not id,label,fingerprint"),
    ],
    ids=lambda value: " ".join(value)[:30] if isinstance(value, list) else "",
)
def test_what_is_wrong_is_said_in_one_line_and_nothing_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], complaint: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "note").write_text("mine")
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "ca.crt").write_text("no certificate")
    (tmp_path / "table").mkdir()
    (tmp_path / "table" / "clients.csv").write_text("id;label;fingerprint\n")
    before = files(tmp_path)
    done = run(*words)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("ops/certificates: ")
    assert done.stderr.count("\n") == 1
    assert complaint in done.stderr
    assert files(tmp_path) == before
    assert not (tmp_path / "new").exists()


def test_help_is_short_and_names_every_option() -> None:
    lines = make("--help")
    assert len(lines) < 20
    assert {word for line in lines for word in line.split() if word.startswith("--")} >= {
        *("--server", "--client", "--renew", "--days")
    }
