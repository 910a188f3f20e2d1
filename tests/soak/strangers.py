"""Who comes to an open port and is no trainer: each kind is a function that makes one connection.

None of them may register, and nothing that they send may become an update.
"""

import errno
import json
import pickle
import random
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from tests.soak.ledger import HOME, Ledger, reset, until_closed
from tests.wire.pickle_opcodes import call, instance, mapping, message, module, name, pickled, raw, tensor, text

Kind = Callable[["Street", random.Random], None]


@dataclass(frozen=True)
class Street:
    """Where strangers come from. ``member`` is the id of a trainer that never leaves; ``upload`` is a sound update of
    a client that never registered. ``over`` is set when the soak gives up."""

    ledger: Ledger
    member: int
    upload: bytes
    over: threading.Event

    @contextmanager
    def visit(self, kind: str, host: str = HOME) -> Iterator[socket.socket]:
        """A connection of one kind. That the server ended it in the middle is nothing to complain of."""
        with self.ledger.connect(kind, host) as connection:
            try:
                yield connection
            except ConnectionError:
                pass
            except OSError as error:
                if error.errno != errno.ENOTCONN:
                    raise

    def pause(self, seconds: float) -> None:
        self.over.wait(seconds)


def framed(body: bytes) -> bytes:
    return len(body).to_bytes(8, "big") + body


def leave(connection: socket.socket, rng: random.Random) -> None:
    """Close at once, or stay until the server does."""
    match rng.randrange(3):
        case 0:
            connection.shutdown(socket.SHUT_WR)
            until_closed(connection)
        case 1:
            reset(connection)


# --- those that say nothing, or not enough ---------------------------------------------------------------------------


def looks_in(street: Street, rng: random.Random) -> None:
    with street.visit("looks_in") as connection:
        if rng.random() < 0.3:
            reset(connection)


def idles(street: Street, rng: random.Random) -> None:
    with street.visit("idles"):
        street.pause(rng.uniform(0.01, 0.2))


def outstays(street: Street, rng: random.Random) -> None:
    with street.visit("outstays") as connection:
        connection.sendall(rng.choice((b"", b"\0", framed(b"{" * 100)[:20])))
        until_closed(connection)


def half_length(street: Street, rng: random.Random) -> None:
    with street.visit("half_length") as connection:
        connection.sendall(bytes(rng.randrange(1, 8)))
        leave(connection, rng)


def length_alone(street: Street, rng: random.Random) -> None:
    with street.visit("length_alone") as connection:
        length = rng.choice((0, 1, 100, len(street.upload), 1 << 20, 1 << 31, (1 << 63) - 1, (1 << 64) - 1))
        connection.sendall(length.to_bytes(8, "big"))
        leave(connection, rng)


def truncated(street: Street, rng: random.Random) -> None:
    with street.visit("truncated") as connection:
        frame = framed(street.upload)
        connection.sendall(frame[: rng.randrange(9, len(frame))])
        connection.shutdown(socket.SHUT_WR)
        until_closed(connection)


def reset_midway(street: Street, rng: random.Random) -> None:
    with street.visit("reset_midway") as connection:
        frame = framed(street.upload)
        connection.sendall(frame[: rng.randrange(1, len(frame))])
        street.pause(rng.choice((0.0, 0.01)))
        reset(connection)


def dribbles(street: Street, rng: random.Random) -> None:
    with street.visit("dribbles") as connection:
        frame = rng.choice((framed(street.upload), framed(json.dumps({"header": "<METADATA>"}).encode())))
        for byte in frame[: rng.randrange(2, 20)]:
            connection.sendall(bytes((byte,)))
            street.pause(rng.uniform(0.0, 0.02))
        leave(connection, rng)


# --- those that speak something else ---------------------------------------------------------------------------------


def client_hello() -> bytes:
    """How a TLS client begins."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = ssl.create_default_context().wrap_bio(incoming, outgoing, server_hostname="localhost")
    with suppress(ssl.SSLWantReadError):
        client.do_handshake()
    return outgoing.read()


OTHER_PROTOCOLS = (
    b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"SSH-2.0-OpenSSH_9.2\r\n",
    b"\x03\x00\x00\x13\x0e\xe0\x00\x00\x00\x00\x00\x01\x00\x08\x00\x03\x00\x00\x00",  # RDP
    b"*1\r\n$4\r\nPING\r\n",
    b"PROXY TCP4 192.0.2.1 192.0.2.2 40000 50052\r\n",  # from no trusted proxy
    b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c" + bytes(12),
    client_hello(),
)


def mistakes_the_port(street: Street, rng: random.Random) -> None:
    with street.visit("mistakes_the_port") as connection:
        connection.sendall(rng.choice(OTHER_PROTOCOLS))
        if rng.random() < 0.5:
            until_closed(connection)


def scans(street: Street, rng: random.Random) -> None:
    with street.visit("scans") as connection:
        connection.sendall(rng.randbytes(rng.randrange(1, 200)))
        leave(connection, rng)


# --- those that speak the protocol, badly ----------------------------------------------------------------------------

BAD_JSON = (
    b"{}",
    b"{",
    b"{" * 4000,
    b'{"header": "<METADATA>"}',
    b'{"header": "<METADATA>", "id": 1}',
    b'{"header": "<METADATA>", "id": true, "data_size": 1}',
    b'{"header": "<METADATA>", "id": [1], "data_size": 1}',
    b'{"header": "<METADATA>", "id": "a\\u0000b", "data_size": 1}',
    b'{"header": "<METADATA>", "id": 1, "data_size": -1}',
    b'{"header": "<METADATA>", "id": 1, "data_size": 1e400}',
    b'{"header": "<METADATA>", "id": 1, "data_size": NaN}',
    b'{"header": "<SUCCESS>", "msg": "hello"}',
    b'{"header": "\\ud800", "id": 1, "data_size": 1}',
    b'{"header": "' + b"x" * 3000 + b'", "id": 1}',
    b'{"a": ' + b"[" * 1500 + b"]" * 1500 + b"}",
    b'{"header": "<METADATA>", "id": \xff}',
)


def bad_json(street: Street, rng: random.Random) -> None:
    with street.visit("bad_json") as connection:
        connection.sendall(framed(rng.choice(BAD_JSON)))
        until_closed(connection)


COMMAND = text("touch soaked")
HOSTILE = (
    pickled(call("os", "system", COMMAND)),
    message(call("posix", "system", COMMAND)),
    message(instance(call("builtins", "eval", text("print('soaked')")))),
    message(call("torch.storage", "_load_from_bytes", raw(pickled(call("os", "system", COMMAND))))),
    message(name("torch._utils", "os.system") + b"(" + COMMAND + b"tR"),
    message(module({"fc1": tensor(shape=(1 << 40,))})),
    message(module({"fc1": tensor(stride=(1 << 40,))})),
    message(module({f"w{number}": tensor() for number in range(50)})),
    pickled(mapping(header=text("<FINISHED>"))),
    pickled(b"Nr\x00\x00\x00\x20"),  # a memo's index that takes gigabytes
    pickled(b")" + b"\x85" * 5000),
    pickled(b"}(" + b")" + b"\x85" * 60 + b"Nu"),  # a key that hashes for ever
    b"\x80\x04" + b"(" * 10_000 + b".",
    b"\x80\x04\x8e" + b"\xff" * 8,  # bytes as long as memory
    b"\x80\x05",
)


def hostile_pickle(street: Street, rng: random.Random) -> None:
    with street.visit("hostile_pickle") as connection:
        connection.sendall(framed(rng.choice(HOSTILE)))
        until_closed(connection)


def flipped(street: Street, rng: random.Random) -> None:
    """A sound update with a few bits flipped in its structure, of a client that never registered."""
    with street.visit("flipped") as connection:
        body = bytearray(street.upload)
        for _ in range(rng.randrange(1, 4)):
            body[rng.randrange(1, 600)] ^= 1 << rng.randrange(8)
        connection.sendall(framed(bytes(body)))
        until_closed(connection)


# --- those that speak it well and have no place here -----------------------------------------------------------------


def uploads_unasked(street: Street, rng: random.Random) -> None:
    with street.visit("uploads_unasked") as connection:
        connection.sendall(framed(street.upload) + rng.choice((b"", b"and more")))
        until_closed(connection)


def registers_again(street: Street, rng: random.Random) -> None:
    metadata = {"header": "<METADATA>", "id": rng.choice((street.member, str(street.member))), "data_size": 100}
    with street.visit("registers_again") as connection:
        connection.sendall(framed(json.dumps(metadata).encode()))
        leave(connection, rng)


def comes_late(street: Street, rng: random.Random) -> None:
    metadata = {"header": "<METADATA>", "id": f"newcomer {rng.randrange(10**6)}", "data_size": 100}
    metadata["info"] = {"note": "x" * rng.choice((0, 3500))}
    with street.visit("comes_late") as connection:
        connection.sendall(framed(json.dumps(metadata).encode()))
        leave(connection, rng)


def sound_upload(client_id: object, model: object, **more: object) -> bytes:
    return pickle.dumps({"header": "<MODEL>", "id": client_id, "model": model} | more, protocol=4)


KINDS: dict[Kind, int] = {
    looks_in: 12,
    idles: 6,
    outstays: 1,
    half_length: 8,
    length_alone: 8,
    truncated: 8,
    reset_midway: 8,
    dribbles: 4,
    mistakes_the_port: 8,
    scans: 8,
    bad_json: 8,
    hostile_pickle: 10,
    flipped: 5,
    uploads_unasked: 5,
    registers_again: 6,
    comes_late: 6,
}
"""How often each kind comes, relative to the others."""
