"""What comes before the first frame: who the peer is, told by a forwarder and by TLS."""

import hashlib
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from flserver import events as e
from flserver.errors import ConnectionLost, FrameRefused, HandshakeRefused, PeerError
from flserver.identity.peer import Peer
from flserver.identity.rules import Identity
from flserver.network.channel import Channel
from flserver.network.preamble import PROTOCOL_VERSION_ALERT, Preamble, networks
from flserver.network.session import Session
from flserver.network.tls import Tls
from tests.certificates import Authority, Pair
from tests.e2e.forwarder import version_1, version_2
from tests.network.frames import SHORT, framed
from tests.network.served import FORWARDER, PEER, Line, Network, linear, metadata, update
from tests.patience import PATIENCE

Ends = tuple[Channel, socket.socket]


@pytest.fixture
def ends() -> Iterator[Ends]:
    """Our channel, and the other end."""
    ours, other = socket.socketpair()
    other.settimeout(PATIENCE)
    channel = Channel(ours)
    with other:
        yield channel, other
        channel.close()


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


def preamble(
    authority: Authority | None = None, *, mutual: bool = False, proxies: str = "127.0.0.1", seconds: float = PATIENCE
) -> Preamble:
    """Of a port behind a forwarder, under TLS where there is an authority."""
    pair = authority.server() if authority is not None else None
    tls = Tls(pair.cert, pair.key, authority.path if mutual and authority else None) if pair else None
    return Preamble(tls=tls, proxies=networks(proxies), seconds=seconds)


# --- a forwarder's header --------------------------------------------------------------------------------------------


def read_header(channel: Channel, seconds: float = PATIENCE) -> tuple[Peer | PeerError, int]:
    """Who the forwarder says that it is, or what is wrong, and how many bytes it took to know."""
    counted: list[int] = []
    try:
        told: Peer | PeerError = preamble(seconds=seconds).read_proxy_header(channel, FORWARDER, counted.append)
    except PeerError as error:
        told = error
    return told, sum(counted)


@pytest.mark.parametrize("header", [version_1(7), version_2(7)])
def test_a_header_says_who_the_peer_is_and_leaves_what_follows(ends: Ends, header: bytes) -> None:
    channel, forwarder = ends
    forwarder.sendall(header + b"the frame")
    told, size = read_header(channel)
    assert told == Peer(host="10.0.0.7", port=50007, proxy_host="127.0.0.1")
    assert (size, channel.peek(99, PATIENCE)) == (len(header), b"the frame")


def test_a_header_may_come_byte_by_byte(ends: Ends) -> None:
    channel, forwarder = ends
    header = version_2(7)

    def dribble() -> None:
        for byte in header:
            forwarder.sendall(bytes([byte]))

    thread = threading.Thread(target=dribble)
    thread.start()
    told, size = read_header(channel)
    thread.join()
    assert isinstance(told, Peer)
    assert (told.host, size) == ("10.0.0.7", len(header))


@pytest.mark.parametrize("header", [b"PROXY UNKNOWN\r\n", b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0"])
def test_a_forwarder_may_speak_for_itself(ends: Ends, header: bytes) -> None:
    channel, forwarder = ends
    forwarder.sendall(header)
    assert read_header(channel) == (FORWARDER, len(header))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (framed(metadata("a")), "no PROXY protocol header, from a --trusted-proxy"),
        (b"PROXY TCP4 somewhere 127.0.0.1 1 2\r\n", "a PROXY protocol line that is none"),
        (b"PROXY " + b"x" * 200, "a PROXY protocol line without an end"),
        (version_2(7)[:12] + b"\x41" + version_2(7)[13:], "a PROXY protocol header that is not understood"),
    ],
)
def test_what_is_no_header_is_refused(ends: Ends, data: bytes, reason: str) -> None:
    channel, forwarder = ends
    forwarder.sendall(data)
    told, size = read_header(channel)
    assert isinstance(told, FrameRefused)
    assert reason in str(told)
    assert 12 <= size <= len(data)


@pytest.mark.parametrize("came", [0, 5, 20])
@pytest.mark.parametrize("header", [version_1(7), version_2(7)])
def test_a_header_that_is_cut_or_does_not_come_is_a_lost_connection(ends: Ends, header: bytes, came: int) -> None:
    channel, forwarder = ends
    forwarder.sendall(header[:came])
    told, size = read_header(channel, seconds=SHORT)
    assert isinstance(told, ConnectionLost)
    assert (str(told), told.cause) == ("timed out before the PROXY protocol header was whole", "timeout")
    assert size == came
    forwarder.close()
    told, _ = read_header(channel)
    assert isinstance(told, ConnectionLost)
    assert (str(told), told.cause) == ("end of file before the PROXY protocol header was whole", "closed")


def test_who_is_trusted() -> None:
    trusting = preamble(proxies="10.0.0.0/8, fd00::/8")
    assert [trusting.trusts(host) for host in ("10.9.9.9", "11.0.0.1", "fd00::1")] == [True, False, True]
    assert not Preamble(tls=None, proxies=(), seconds=1).trusts("10.9.9.9")


def test_behind_a_forwarder_a_connection_is_its_clients(network_of: Callable[..., Network]) -> None:
    network, hosts = network_of(preamble=preamble()), []
    line = network.connect(FORWARDER, take_place=lambda session: hosts.append(session.peer.host))
    line.trainer.sendall(version_2(3) + framed(metadata("a")))
    assert line.answer()["header"] == "<SUCCESS>"
    assert line.story()[:2] == ["opened", "identified 10.0.0.3 behind 127.0.0.1 by tcp"]
    assert hosts == ["10.0.0.3"], "it takes that one's place"
    header, message = len(version_2(3)), line.of(e.MessageReceived)[0].bytes
    line.hang_up().ended()
    assert line.of(e.ConnectionClosed)[0].bytes_in == header + message
    stranger = network.connect(PEER)
    stranger.trainer.sendall(version_2(3))
    assert "from an address that is not --trusted-proxy" in stranger.ended().story()[-1]


@pytest.mark.parametrize(
    ("data", "outcome", "reason", "sizes"),
    [
        (framed(metadata("a")), "refused", "no PROXY protocol header, from a --trusted-proxy", [12]),
        (version_1(3)[:20], "failed", "timed out before the PROXY protocol header was whole", [20]),
        (b"", "failed", "timed out before the PROXY protocol header was whole", []),
    ],
)
def test_a_forwarder_that_does_not_say_whom_it_speaks_for_is_on_record(
    network_of: Callable[..., Network], data: bytes, outcome: str, reason: str, sizes: list[int]
) -> None:
    network, places = network_of(preamble=preamble(seconds=SHORT)), []
    line = network.connect(FORWARDER, take_place=places.append, sent=data).ended()
    *messages, closed = line.story()[1:]
    assert closed.startswith(f"closed, unknown of None: {reason}")
    assert [message.bytes for message in line.of(e.MessageReceived)] == sizes
    assert all(message.startswith(f"in None {outcome}: {reason}") for message in messages)
    assert (len(messages), places) == (len(sizes), [])


# --- TLS -------------------------------------------------------------------------------------------------------------


def trusting(authority: Authority, own: Pair | None = None) -> ssl.SSLContext:
    """What a trainer's end is configured with."""
    context = ssl.create_default_context(cafile=authority.path)
    if own is not None:
        context.load_cert_chain(own.cert, own.key)
    return context


@contextmanager
def shaking(channel: Channel, ours: Preamble) -> Iterator[list[Any]]:
    """Our side of a handshake, on a thread; at the end it has given a peer or an error."""
    came: list[Any] = []

    def shake() -> None:
        try:
            came.append(ours.shake_hands(channel, PEER))
        except BaseException as error:
            came.append(error)

    thread = threading.Thread(target=shake)
    thread.start()
    try:
        yield came
    finally:
        thread.join(PATIENCE)


def test_under_tls_a_peer_without_a_certificate_stays_who_it_is(ends: Ends, authority: Authority) -> None:
    channel, trainer = ends
    with shaking(channel, preamble(authority)) as came:
        with trusting(authority).wrap_socket(trainer, server_hostname="localhost") as tls:
            tls.sendall(b"hello")
            assert tls.version() in ("TLSv1.2", "TLSv1.3")
    assert came == [Peer(host=PEER.host, port=PEER.port, transport="tls")]
    space = bytearray(5)
    assert channel.receive_into(memoryview(space), PATIENCE) == 5
    assert space == b"hello"


def test_a_certificate_that_was_asked_for_is_known(ends: Ends, authority: Authority) -> None:
    channel, trainer = ends
    own = authority.client("site-1")
    with shaking(channel, preamble(authority, mutual=True)) as came:
        with trusting(authority, own).wrap_socket(trainer, server_hostname="localhost"):
            pass
    (peer,) = came
    der = ssl.PEM_cert_to_DER_cert(own.cert.read_text())
    assert peer.certificate.common_name == "site-1"
    assert peer.certificate.fingerprint == "sha256:" + hashlib.sha256(der).hexdigest()
    assert "commonName=site-1" in peer.certificate.subject


@pytest.mark.parametrize(
    ("whose", "reason"),
    [
        (lambda authority, other: None, "no certificate was shown, and --tls-client-ca asks for one"),
        (lambda authority, other: other.client("site-1"), "the certificate was not accepted: unable to get local"),
        (lambda authority, other: authority.expired_client("site-1"), "not accepted: certificate has expired"),
    ],
)
def test_a_certificate_that_is_not_accepted_has_its_reason(
    ends: Ends, authority: Authority, tmp_path: Path, whose: Callable[..., Pair | None], reason: str
) -> None:
    channel, trainer = ends
    context = trusting(authority, whose(authority, Authority(tmp_path / "other")))
    with shaking(channel, preamble(authority, mutual=True)) as came:
        with pytest.raises(ssl.SSLError):
            with context.wrap_socket(trainer, server_hostname="localhost") as tls:
                tls.recv(1)  # under TLS 1.3 the client learns it here
    assert isinstance(came[0], HandshakeRefused)
    assert reason in str(came[0])


def test_plain_text_is_refused_with_an_alert_that_says_what_is_spoken_here(ends: Ends, authority: Authority) -> None:
    channel, trainer = ends
    trainer.sendall(framed(metadata("a")))
    with pytest.raises(HandshakeRefused, match=r"plain text on a port that speaks TLS \(the bytes are b'\\x00"):
        preamble(authority).shake_hands(channel, PEER)
    assert trainer.recv(99) == PROTOCOL_VERSION_ALERT


@pytest.mark.parametrize("began", [False, True])
def test_a_handshake_that_is_not_gone_through_with_is_a_lost_connection(
    ends: Ends, authority: Authority, began: bool
) -> None:
    channel, trainer = ends
    where = "in the middle of the" if began else "before the"
    ours = preamble(authority, seconds=SHORT)
    hello = ssl.MemoryBIO()
    if began:
        client = trusting(authority).wrap_bio(ssl.MemoryBIO(), hello, server_hostname="localhost")
        with pytest.raises(ssl.SSLWantReadError):
            client.do_handshake()
        trainer.sendall(hello.read())
    with pytest.raises(ConnectionLost, match=f"timed out {where} TLS handshake") as caught:
        ours.shake_hands(channel, PEER)
    assert caught.value.cause == "timeout"


@pytest.mark.parametrize("came", [b"", b"\x16\x03\x01\x02"])
def test_a_peer_that_goes_away_in_the_handshake_is_a_lost_connection(
    ends: Ends, authority: Authority, came: bytes
) -> None:
    channel, trainer = ends
    trainer.sendall(came)
    trainer.close()
    where = "in the middle of" if came else "before"
    with pytest.raises(ConnectionLost, match=f"end of file {where} the TLS handshake") as caught:
        preamble(authority).shake_hands(channel, PEER)
    assert caught.value.cause == "closed"


def over_tls(line: Line, context: ssl.SSLContext) -> Line:
    line.trainer = context.wrap_socket(line.trainer, server_hostname="localhost")
    return line


def test_under_mutual_tls_a_trainer_registers_and_uploads_as_its_certificate(
    network_of: Callable[..., Network], authority: Authority
) -> None:
    network = network_of(preamble=preamble(authority, mutual=True), identity=Identity(mutual_tls=True))
    context = trusting(authority, authority.client("a"))
    line = network.admitted("a", over_tls(network.connect(PEER), context).send(metadata("a")))
    assert line.story()[1] == "identified 10.0.0.1 behind None by tls"
    (identified,), (registered,) = line.of(e.PeerIdentified), line.of(e.ClientRegistered)
    assert "commonName=a" in identified.certificate_subject
    assert registered.identity == "authenticated"
    network.begin()
    assert line.message()["header"] == "<MODEL>"
    over_tls(network.connect(PEER), context).send(update("a", linear(value=1.0))).ended()
    (counted,) = network.recorder.of(e.UpdateReceived)
    assert (counted.client_id, counted.identity, counted.decision) == ("a", "authenticated", None)
    other = over_tls(network.connect(PEER), context).send(metadata("b"))
    assert other.answer()["msg"] == "the certificate is client a's, the message says client b"


def test_what_does_not_speak_tls_on_its_port_is_on_record(
    network_of: Callable[..., Network], authority: Authority
) -> None:
    places: list[Session] = []
    line = network_of(preamble=preamble(authority)).connect(take_place=places.append, sent=framed(metadata("a")))
    assert line.exactly(7) == PROTOCOL_VERSION_ALERT
    line.hang_up().ended()
    assert "in None refused: plain text on a port that speaks TLS" in line.story()[1]
    assert line.story()[2].startswith("closed, unknown of None: plain text on a port")
    silent = network_of(preamble=preamble(authority, seconds=SHORT)).connect(take_place=places.append).ended()
    assert silent.story() == ["opened", "closed, unknown of None: timed out before the TLS handshake"]
    assert places == [line.session, silent.session], "before the work of a handshake"
