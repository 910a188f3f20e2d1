"""Strangers who do nothing that is malformed, and cost: each function is one visit, of one connection or of a few.

What each did and was answered is noted, so that it can be seen in the soak's result.
"""

import json
import random
import socket
from contextlib import ExitStack, suppress

from tests.e2e.harness import receive
from tests.e2e.hostile.costs import (
    LOOKALIKES,
    MANY_REQUESTS,
    MUCH,
    NASTY,
    STALLED_REQUESTS,
    TOO_LARGE_REQUESTS,
    body_of,
)
from tests.patience import PATIENCE
from tests.soak.ledger import HOME, until_closed
from tests.soak.strangers import Kind, Street, framed

ELSEWHERE = "127.0.0.9"  # where no client is
OCCUPY, LINGER = 16, 8  # connections of one visit


def asked(street: Street, kind: str, connection: socket.socket, **fields: object) -> str:
    """The answer to a registration that must be refused: its text. Noted and complained of, where it is taken."""
    connection.sendall(framed(json.dumps({"header": "<METADATA>", "data_size": 100} | fields).encode()))
    try:
        answer = json.loads(receive(connection))
    except EOFError:
        street.ledger.note(kind, "made room")
        return ""
    if answer["header"] != "<ERROR>":
        street.ledger.complain(f"{kind}: a stranger was answered {answer}")
    return str(answer["msg"])


def occupies(street: Street, rng: random.Random) -> None:
    """Takes what places there are, and says nothing, or not enough."""
    with ExitStack() as stack:
        held = [stack.enter_context(street.visit("occupies", rng.choice((ELSEWHERE, HOME)))) for _ in range(OCCUPY)]
        for connection in held[: OCCUPY // 2]:
            with suppress(ConnectionError):
                connection.sendall(framed(street.upload)[: rng.randrange(1, 3000)])
        street.pause(rng.uniform(0.1, 0.8))
        for connection in held:
            street.ledger.note("occupies", "was cut" if has_ended(connection) else "left")


def has_ended(connection: socket.socket) -> bool:
    connection.setblocking(False)
    try:
        return connection.recv(1) == b""
    except BlockingIOError:
        return False
    except ConnectionError:
        return True


def passes_for(street: Street, rng: random.Random) -> None:
    """Calls itself what looks like somebody's id, or like nothing."""
    client_id = rng.choice([*LOOKALIKES])
    with street.visit("passes_for") as connection:
        if rng.random() < 0.3:
            connection.sendall(framed(body_of(b"N", client_id)))
            until_closed(connection)
            street.ledger.note("passes_for", "an upload was refused")
        elif said := asked(street, "passes_for", connection, id=client_id):
            street.ledger.note("passes_for", "a registration was refused")
            if not said.endswith(f" is not a client id: {LOOKALIKES[client_id]}"):
                street.ledger.complain(f"passes_for: {client_id!a} was answered {said!r}")


def becomes_much(street: Street, rng: random.Random) -> None:
    """A short message that would become hundreds of megabytes, from beside the honest and from elsewhere."""
    what = rng.choice([*MUCH])
    with street.visit("becomes_much", rng.choice((HOME, ELSEWHERE))) as connection:
        connection.sendall(framed(body_of(MUCH[what])))
        until_closed(connection)
        street.ledger.note("becomes_much", f"{what}: refused")


def writes_much(street: Street, rng: random.Random) -> None:
    """What is refused is put on record: as much of it as fits into a message."""
    with street.visit("writes_much", rng.choice((HOME, ELSEWHERE))) as connection:
        info = {f"{number:03} " + "é" * 120: "x" * 100 for number in range(3)}
        if asked(street, "writes_much", connection, id="é" * 128, info=info):
            street.ledger.note("writes_much", "was refused")


def lingers(street: Street, rng: random.Random) -> None:
    """Is answered and refused, and does not go."""
    with ExitStack() as stack:
        held = [stack.enter_context(street.visit("lingers", ELSEWHERE)) for _ in range(LINGER)]
        for connection in held:
            with suppress(ConnectionError):
                if asked(street, "lingers", connection, id=f"newcomer {rng.randrange(10**6)}"):
                    street.ledger.note("lingers", "was refused")
        for connection in held:
            with suppress(ConnectionError):
                for _ in range(3):
                    connection.sendall(b"still here")
                    street.pause(0.05)
            until_closed(connection)
            street.ledger.note("lingers", "was cut")


def stalls_at_metrics(street: Street, rng: random.Random) -> None:
    """More requests to the metrics port than it serves at once, none whole; who asks meanwhile is answered."""
    server, what = street.ledger.server, rng.choice([*STALLED_REQUESTS])
    address = ("127.0.0.1", server.metrics_port)
    with ExitStack() as stack:
        for _ in range(MANY_REQUESTS):
            connection = stack.enter_context(socket.create_connection(address, PATIENCE))
            with suppress(ConnectionError):
                connection.sendall(STALLED_REQUESTS[what])
        status, _ = server.health()
        street.ledger.note("stalls_at_metrics", f"{what}, and /healthz says {status}")
        if status != 200:
            street.ledger.complain(f"/healthz says {status} while {MANY_REQUESTS} requests are {what}")
    what = rng.choice([*TOO_LARGE_REQUESTS])
    with socket.create_connection(address, PATIENCE) as connection:
        with suppress(ConnectionError):
            connection.sendall(TOO_LARGE_REQUESTS[what])
            connection.shutdown(socket.SHUT_WR)
        answer = connection.recv(12).decode("ascii", "replace")
        street.ledger.note("stalls_at_metrics", f"{what}: {answer}")
        if answer != "HTTP/1.1 431":
            street.ledger.complain(f"a request with {what} was answered {answer!r}")


def says_nasty(street: Street, rng: random.Random) -> None:
    """Text that would clear the screen of whoever reads it, in every place that a stranger's text can come from."""
    fields = rng.choice(({"id": NASTY}, {"id": 1, "data_size": NASTY}, {"id": 1, "info": {NASTY: NASTY}}))
    with street.visit("says_nasty") as connection:
        if rng.random() < 0.3:
            connection.sendall(framed(json.dumps({"header": NASTY, "id": 1}).encode()))
            until_closed(connection)
        else:
            asked(street, "says_nasty", connection, **fields)
        street.ledger.note("says_nasty", "was refused")


COSTLY: dict[Kind, int] = {
    occupies: 2,
    passes_for: 6,
    becomes_much: 3,
    writes_much: 4,
    lingers: 2,
    stalls_at_metrics: 1,
    says_nasty: 4,
}
"""How often each kind comes, relative to the others and to ``strangers.KINDS``."""
CONNECTIONS = {occupies: OCCUPY, lingers: LINGER, stalls_at_metrics: 0}
"""Those of a visit, where it is not one."""
