"""Truncations and bit flips of a good upload and of a good registration."""

import json
import pickle
from collections.abc import Iterator

from tests.e2e.hostile.inputs import STRANGER, Input, Then, framed
from tests.e2e.hostile.net import fixed_net

FLIPS = 64
CUT = "end of file in the middle of a frame"
ANY = ("refused", "failed")

NET = fixed_net()
BODY = pickle.dumps({"header": "<MODEL>", "id": STRANGER, "model": NET})
JSON = json.dumps({"header": "<METADATA>", "id": STRANGER, "data_size": 100}).encode()


def structure() -> list[int]:
    """Where BODY's bytes are not the numbers of one of its larger tensors. A bit flipped in those is another update."""
    numbers: set[int] = set()
    for value in NET.state_dict().values():
        payload = value.numpy().tobytes()
        if len(payload) > 1000:
            start = BODY.index(payload)
            numbers.update(range(start, start + len(payload)))
    return [place for place in range(len(BODY)) if place not in numbers]


def flipped(data: bytes, place: int, bit: int) -> bytes:
    return data[:place] + bytes([data[place] ^ 1 << bit]) + data[place + 1 :]


def _cuts() -> Iterator[Input]:
    """The length of the whole before a part, and a part as a whole."""
    places = structure()
    inside = [1, 2, 10, 11, 12, 40, 100, 300, 1000, len(BODY) // 3, len(BODY) // 2, places[len(places) // 2]]
    for kept in (*inside, len(BODY) - 100, len(BODY) - 2, len(BODY) - 1):
        wire = framed(BODY)[: 8 + kept]
        then = Then.CLOSE if kept % 2 else Then.HALF_CLOSE
        yield _cut(f"an upload's first {kept} bytes", wire, CUT, ("failed",), then)
        yield _cut(f"a whole frame of an upload's first {kept} bytes", framed(BODY[:kept]), ".")
    for kept in (1, 10, 30, len(JSON) - 1):
        yield _cut(f"a registration's first {kept} bytes", framed(JSON)[: 8 + kept], CUT, ("failed",), Then.CLOSE)
        yield _cut(f"a whole frame of a registration's first {kept} bytes", framed(JSON[:kept]), "is none")
    for kept in range(1, 8):
        yield _cut(f"{kept} bytes of a length", framed(BODY)[:kept], CUT, ("failed",), Then.CLOSE)
    yield _cut("an upload without its first byte", framed(BODY[1:]), "starts with byte")
    yield _cut("an upload without its first thousand bytes", framed(BODY[:2] + BODY[1000:]), ".")
    yield _cut("an upload without its middle", framed(BODY[:5000] + BODY[-5000:]), ".")
    yield _cut("an upload with a byte too many in its middle", framed(BODY[:5000] + b"\x00" + BODY[5000:]), ".")
    yield _cut("an upload twice in one frame", framed(BODY + BODY), "bytes follow the pickle")


def _flips() -> Iterator[Input]:
    places = structure()
    for i in range(FLIPS):
        place, bit = places[i * (len(places) - 1) // (FLIPS - 1)], i * 5 % 8
        yield _flip(f"bit {bit} of an upload's byte {place}", framed(flipped(BODY, place, bit)))
    for place in range(8):
        # A smaller length cuts the body, a larger one is beyond the limit or waits for more.
        yield _flip(f"bit 1 of byte {place} of an upload's length", flipped(framed(BODY), place, 1))
    # Not those in the numbers: another number of samples, or another digit in the id, is a registration too.
    for place in range(0, JSON.index(b"100"), 5):
        yield _flip(f"bit 6 of a registration's byte {place}", framed(flipped(JSON, place, 6)))


def _cut(
    what: str,
    wire: bytes,
    reason: str,
    outcome: tuple[str, ...] = ("refused",),
    then: Then = Then.HALF_CLOSE,
) -> Input:
    return Input(name=f"cut: {what}", klass="cut", wire=wire, reason=reason, outcome=outcome, then=then)


def _flip(what: str, wire: bytes) -> Input:
    return Input(name=f"flip: {what}", klass="flip", wire=wire, reason=".", outcome=ANY)


INPUTS: tuple[Input, ...] = (*_cuts(), *_flips())
