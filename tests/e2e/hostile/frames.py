"""Framing: lengths that lie, bytes of other protocols, and connections that end in the wrong place."""

import json
import pickle
import ssl
import struct
from collections.abc import Iterator

from tests.e2e.hostile.inputs import STRANGER, UNREGISTERED, Input, Speech, Then, framed, pickled, upload
from tests.e2e.hostile.net import fixed_net
from tests.wire.pickle_opcodes import mapping, module, tensor, text

LARGEST = 2_000_000  # no pickle may be as long with this model: seven parameters, so seven models
TOO_LONG = "a frame of .* bytes where at most|something else than a frame"
CUT = "end of file in the middle of a frame"
HELD = "in the middle of a frame|slow|rate|timed out"
UPLOAD = pickle.dumps({"header": "<MODEL>", "id": STRANGER, "model": fixed_net()})
SMALL = upload(module({"w": tensor()}))
JOIN = framed(json.dumps({"header": "<METADATA>", "id": STRANGER, "data_size": 100}).encode())


def length(value: int) -> bytes:
    return struct.pack(">Q", value)


def client_hello() -> bytes:
    """What a TLS client says first."""
    said = ssl.MemoryBIO()
    client = ssl.create_default_context().wrap_bio(ssl.MemoryBIO(), said, server_hostname="localhost")
    try:
        client.do_handshake()
    except ssl.SSLWantReadError:
        return said.read()
    raise AssertionError("a handshake without an answer")


PROXY_2 = b"\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c" + bytes([127, 0, 0, 1, 127, 0, 0, 1, 0, 1, 0, 2])

# What else is found on open ports: no frame is as long as their first bytes say.
OTHERS = {
    "an HTTP request": b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "an HTTP request with a body": b"POST /upload HTTP/1.0\r\nContent-Length: 9\r\n\r\n{\"id\": 1}",
    "an HTTP/2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "a TLS ClientHello": client_hello(),
    "an SSH banner": b"SSH-2.0-OpenSSH_9.6\r\n",
    "an SMTP greeting": b"EHLO scanner.example\r\n",
    "an SMB negotiation": bytes.fromhex("00000085ff534d4272000000001853c8") + bytes(121),
    "an RDP connection request": bytes.fromhex("030000130ee000000000000100080003000000"),
    "a Redis command": b"*1\r\n$4\r\nPING\r\n",
    "a Postgres startup": struct.pack(">II", 8, 80877103),
    "a MongoDB query": struct.pack("<iiii", 58, 1, 0, 2004) + bytes(42),
    "an RTSP request": b"OPTIONS rtsp://localhost RTSP/1.0\r\n\r\n",
    "a SIP request": b"OPTIONS sip:nm SIP/2.0\r\nVia: SIP/2.0/TCP nm\r\n\r\n",
    "a SOCKS5 greeting and more": b"\x05\x01\x00" + bytes(20),
    "a PROXY header, version 1": b"PROXY TCP4 192.0.2.1 192.0.2.2 51 52\r\n" + JOIN,
    "a PROXY header, version 2": PROXY_2 + JOIN,
    "a telnet negotiation": bytes.fromhex("fffb1ffffb20fffb18fffb27fffd01"),
    "terminal escapes": b"\x1b]0;owned\x07\x1b[2J\x1b[31m" * 3,
    "a kilobyte of 0xff": b"\xff" * 1024,
}  # fmt: skip

KNOWN = {
    "a TLS ClientHello": "a TLS handshake, on a port without --tls-cert",
    "a PROXY header, version 1": "a PROXY protocol header, from an address that is not",
    "a PROXY header, version 2": "a PROXY protocol header, from an address that is not",
    "an SMB negotiation": "an SMB request",
    "a Postgres startup": "a PostgreSQL client's request",
    "an HTTP request": "something else than a frame .*(HTTP|GET)",
}


def _inputs() -> Iterator[Input]:
    for what, wire in OTHERS.items():
        for before in (True, False):
            when = "before anybody registered" if before else "while others train"
            yield _input(f"{what} {when}", wire, KNOWN.get(what, TOO_LONG), then=Then.WAIT, before=before)
    for number in (LARGEST, 2**31, 2**32, 2**53, 2**62, 2**63 - 1, 2**63, 2**64 - 1):
        yield _input(f"a length of {number}", length(number), TOO_LONG, then=Then.WAIT)
    yield _input("a length of 0", length(0), "a frame of length 0", then=Then.WAIT)
    yield _input("a length of 0, then a frame", length(0) + SMALL, "a frame of length 0", then=Then.WAIT)
    yield _input("a little-endian length", struct.pack("<Q", len(SMALL)) + SMALL, "a frame of", then=Then.WAIT)
    for first in (0x00, 0x20, 0x28, 0x5B, 0x63, 0x7D, 0x7F, 0x81, 0xEF, 0xFF):
        wire = length(100) + bytes([first]) + b"x" * 99
        yield _input(f"a body of the unknown byte 0x{first:02x}", wire, f"starts with byte 0x{first:02x}")
    yield _input("an unknown first byte alone", length(100_000) + b"G", "starts with byte 0x47", then=Then.WAIT)
    yield _input("a JSON body of a model's length", framed(b"{" + b" " * 100_000), "a json body of 100001 bytes")
    yield _input("a JSON body of 4,097 bytes", framed(b"{" + b" " * 4095 + b"}"), "a json body of 4097 bytes")
    yield _input("a JSON length without the rest", length(100_000) + b"{", "a json body of", then=Then.WAIT)
    yield _input("metadata as a pickle", framed(pickle.dumps(json.loads(JOIN[8:]))), "'<METADATA>' is not one")
    for header in ("<FINISHED>", "<SUCCESS>", "<model>", "<MODEL> ", "", "\x1b[2J", "\ud800"):
        wire = framed(pickled(mapping(header=_surrogate(header), id=text(STRANGER))))
        yield _input(f"a pickle with the header {header!a}", wire, "header .* is not one")
    yield _input("a pickle without a header", framed(pickled(mapping(id=text(STRANGER)))), "without a header")
    yield _input("a pickle that is a list", framed(pickled(b"]")), "list is not a message")
    yield _input("an empty pickle", framed(b"\x80\x04."), "one value|empty|without")
    for version in (0, 1, 6, 255):
        yield _input(f"a pickle of protocol {version}", framed(b"\x80" + bytes([version]) + b"}."), "protocol 2 to 5")
    yield _input("two frames at once", SMALL + SMALL, UNREGISTERED)
    yield _input("bytes after the frame", SMALL + b"\x00", UNREGISTERED)
    yield _input("an upload, then a registration", SMALL + JOIN, UNREGISTERED)
    yield from _endings()


def _endings() -> Iterator[Input]:
    """Connections that end, are reset or stand still in the wrong place."""
    begun = {
        "three bytes of a length": length(len(UPLOAD))[:3],
        "a length and nothing": length(len(UPLOAD)),
        "a length and one byte": length(len(UPLOAD)) + UPLOAD[:1],
        "a JSON body's half": JOIN[:30],
        "what a frame may use before it gets room": length(len(UPLOAD)) + UPLOAD[: 64 * 1024],
        "most of an upload": length(len(UPLOAD)) + UPLOAD[:-1],
    }
    for what, wire in begun.items():
        for then, reason in (
            (Then.HALF_CLOSE, CUT),
            (Then.CLOSE, CUT),
            (Then.RESET, "connection reset in the middle of a frame"),
            (Then.HOLD, HELD),
        ):
            how = then.name.lower().replace("_", "-")
            yield _input(f"{what}, then {how}", wire, reason, ("failed", "refused"), then)
    yield _input("nothing, then close", b"", "end of file before a frame", ("none",), Then.CLOSE)
    yield _input("nothing, then half-close", b"", "end of file before a frame", ("none",))
    yield _input("nothing, then reset", b"", "before a frame", ("none",), Then.RESET)
    yield _input("nothing, held", b"", "before a frame", ("none",), Then.HOLD)


def _surrogate(value: str) -> bytes:
    raw = value.encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<I", len(raw)) + raw


def _input(
    what: str,
    wire: bytes,
    reason: str,
    outcome: tuple[str, ...] = ("refused",),
    then: Then = Then.HALF_CLOSE,
    before: bool = False,
) -> Input:
    return Input(
        name=f"framing: {what}", klass="framing", wire=wire, reason=reason, outcome=outcome, then=then, before=before
    )


INPUTS: tuple[Input, ...] = tuple(_inputs())

SPEECHES: tuple[Speech, ...] = (
    Speech(name="speech: a second registration", wire=JOIN),
    Speech(name="speech: a model on the first connection", wire=framed(UPLOAD)),
    Speech(
        name="speech: a command on the first connection",
        wire=framed(pickled(b"cos\nsystem\n", text("touch ran"), b"\x85R")),
    ),
    Speech(name="speech: an HTTP request", wire=b"GET / HTTP/1.1\r\n\r\n"),
    Speech(name="speech: a length of 2**64 - 1", wire=length(2**64 - 1)),
    Speech(name="speech: one byte", wire=b"\x00"),
    Speech(name="speech: half a frame", wire=JOIN[:20]),
)
