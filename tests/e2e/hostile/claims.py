"""Identity: uploads and registrations under names that are not the sender's, or not anybody's yet."""

import json
import pickle
from collections.abc import Iterator

from tests.e2e.hostile.inputs import STRANGER, Input, framed, upload
from tests.e2e.hostile.net import fixed_net
from tests.wire.pickle_opcodes import integer, module, tensor, text

HONEST: tuple[object, ...] = ("a", "b", 3)
ALIVE = "is registered already, and its connection is alive"
STARTED = "The server has already started the training"
NOBODY = "has not registered|no client has registered"
NO_ID = "is not a client id"


def registration(client_id: object, **more: object) -> bytes:
    return framed(json.dumps({"header": "<METADATA>", "id": client_id, "data_size": 10**6} | more).encode())


def model_of(client_id: object) -> bytes:
    """A whole and good upload, as far as its content goes."""
    return framed(pickle.dumps({"header": "<MODEL>", "id": client_id, "model": fixed_net()}))


def _inputs() -> Iterator[Input]:
    for client_id in HONEST:
        yield _input(f"a model of {client_id} before it has registered", model_of(client_id), NOBODY, before=True)
        again = registration(client_id)
        yield _input(f"a second registration of {client_id}", again, f"Client {client_id} {ALIVE}", answer="<ERROR>")
    yield _input("client 3 as a text", registration("3"), f"Client 3 {ALIVE}", answer="<ERROR>")
    yield _input("client 3 with a larger data_size", registration(3, data_size=2**29 - 1), ALIVE, answer="<ERROR>")
    for other in (4, -3, "A", "\u0430", "a.", "stranger", 2**63 - 1, "x" * 128):
        yield _input(f"a newcomer who calls itself {other!a}", registration(other), STARTED, answer="<ERROR>")
        reason = "which has not registered"
        yield _input(f"a model of {other!a}, whom nobody knows", model_of(other), reason)
    yield _input("a model of a stranger before anybody registered", model_of(STRANGER), NOBODY, before=True)
    good = module({"w": tensor()})
    ids = {
        "true": b"\x88",
        "1.0": b"G" + bytes.fromhex("3ff0000000000000"),
        "None": b"N",
        "a list": b"](" + text("a") + b"e",
        "a tuple": text("a") + b"\x85",
        "bytes": b"C\x01a",
        "an empty text": text(""),
        "a with a NUL": text("a\x00"),
        "a with a space": text(" a"),
        "129 characters": text("a" * 129),
        "a text of 100,000 bytes": text("a" * 100_000),
        "2**63": integer(2**63),
        "a lone surrogate": b"X\x03\x00\x00\x00\xed\xa0\x80",
        "a terminal escape": text("\x1b[2Ja"),
        "a right-to-left mark": text("\u202ea"),
    }
    for what, opcodes in ids.items():
        yield _input(f"a model whose id is {what}", upload(good, id=opcodes), NO_ID)


def _stolen() -> Iterator[Input]:
    """In the name of an honest trainer that is waited for, from another address than its own."""
    spoilt = fixed_net()
    spoilt.head.bias.data.fill_(float("nan"))
    for client_id in HONEST:
        for what, model in (("good", fixed_net()), ("NaN", spoilt)):
            wire = framed(pickle.dumps({"header": "<MODEL>", "id": client_id, "model": model}))
            yield _input(f"a {what} model of {client_id} from another address", wire, "127.1.0.1", elsewhere=True)
        small = upload(module({"w": tensor()}), id=text(client_id) if isinstance(client_id, str) else integer(3))
        yield _input(f"a small model of {client_id} from another address", small, "127.1.0.1", elsewhere=True)
        wire = registration(client_id)
        yield _input(f"a registration of {client_id} from another address", wire, "registered", elsewhere=True)


def _input(
    what: str, wire: bytes, reason: str, before: bool = False, elsewhere: bool = False, answer: str | None = None
) -> Input:
    return Input(
        name=f"identity: {what}",
        klass="identity",
        wire=wire,
        reason=reason,
        before=before,
        elsewhere=elsewhere,
        answer=answer,
    )


INPUTS: tuple[Input, ...] = (*_inputs(), *_stolen())
