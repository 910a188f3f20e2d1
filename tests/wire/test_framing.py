"""Frames fed in every cut, and the lengths and first bytes that are refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flserver.errors import FrameRefused
from flserver.wire.framing import LENGTH_BYTES, OPENING_BYTES, FrameLimits, FrameReader, encode_length

LIMITS = FrameLimits(json=4096, pickle=10 * OPENING_BYTES)


def feed(reader: FrameReader, data: bytes) -> int:
    """Feed bytes until the frame is complete or they are used up; returns how many were taken."""
    taken = 0
    while taken < len(data) and not reader.complete:
        if reader.needs_room:
            assert reader.length is not None
            reader.give_room(memoryview(bytearray(reader.length)))
        space = reader.space()
        piece = data[taken : taken + len(space)]
        space[: len(piece)] = piece
        reader.received(len(piece))
        taken += len(piece)
    return taken


def frame(body: bytes) -> bytes:
    return encode_length(len(body)) + body


@given(st.sampled_from([b"{", b"\x80"]), st.binary(max_size=200), st.lists(st.integers(1, 40)))
def test_any_cut_gives_the_same_frame(first: bytes, rest: bytes, cuts: list[int]) -> None:
    body = first + rest
    data, reader, at = frame(body), FrameReader(LIMITS), 0
    for size in [*cuts, len(data)]:
        at += feed(reader, data[at : at + size])
    assert reader.complete
    assert bytes(reader.body) == body
    assert reader.bytes_received == len(data)
    assert reader.encoding == ("json" if first == b"{" else "pickle")


def test_byte_by_byte() -> None:
    reader, data = FrameReader(LIMITS), frame(b'{"header": 1}')
    for i, byte in enumerate(data):
        assert not reader.complete, i
        feed(reader, bytes([byte]))
    assert reader.complete


@pytest.mark.parametrize("size", [1, OPENING_BYTES - 1, OPENING_BYTES, OPENING_BYTES + 1, 3 * OPENING_BYTES])
def test_room_is_asked_for_only_beyond_the_opening(size: int) -> None:
    body = b"\x80" + bytes(i % 251 for i in range(size - 1))
    reader = FrameReader(LIMITS)
    feed(reader, frame(body)[: 8 + OPENING_BYTES])
    assert reader.needs_room == (size > OPENING_BYTES)
    feed(reader, frame(body)[reader.bytes_received :])
    assert bytes(reader.body) == body


@pytest.mark.parametrize("at", [1, OPENING_BYTES, 2 * OPENING_BYTES], ids=["early", "before room", "in its room"])
def test_of_a_body_that_is_not_kept_the_opening_is(at: int) -> None:
    """It says whose it is."""
    body = b"\x80" + b"its opening" + bytes(3 * OPENING_BYTES) + b"its end"
    reader, room = FrameReader(LIMITS), memoryview(bytearray(LIMITS.pickle))
    data, taken = frame(body), 0
    while not reader.complete:
        if taken == LENGTH_BYTES + at:
            reader.discard()
            room[:] = bytes(len(room))  # it may be somebody else's by then
        elif reader.needs_room:
            reader.give_room(room)
        space = reader.space()
        count = min(len(space), OPENING_BYTES, max(0, LENGTH_BYTES + at - taken) or OPENING_BYTES)
        space[:count] = data[taken : taken + count]
        reader.received(count)
        taken += count
    assert taken == len(data)
    assert reader.body == body[: min(at, OPENING_BYTES)]


def test_it_takes_no_byte_of_the_next_frame() -> None:
    reader, data = FrameReader(LIMITS), frame(b"{}")
    assert feed(reader, data + b"more") == len(data)


def test_a_claim_costs_no_memory_before_bytes_arrive() -> None:
    reader = FrameReader(LIMITS)
    feed(reader, encode_length(10 * OPENING_BYTES))
    assert len(reader.space()) == OPENING_BYTES


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (encode_length(0), "length 0"),
        (encode_length(10 * OPENING_BYTES + 1), "at most 655360"),
        (encode_length(2**64 - 1), "at most"),
        (b"GET / HTTP/1.1\r\n", "b'GET / HT'"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01", "a TLS handshake, on a port without --tls-cert"),
        (b"PROXY TCP4 1.2.3.4", "a PROXY protocol header, from an address that is not --trusted-proxy"),
        (b"\r\n\r\n\0\r\nQUIT\n", "a PROXY protocol header"),
        (frame(b"\x00abc"), "starts with byte 0x00"),
        (frame(b"[1]"), "starts with byte 0x5b"),
        (encode_length(4097) + b"{", "a json body of 4097 bytes where at most 4096"),
    ],
)
def test_what_cannot_be_a_frame_is_refused_as_soon_as_it_shows(data: bytes, reason: str) -> None:
    with pytest.raises(FrameRefused, match=reason.replace("(", r"\(")):
        feed(FrameReader(LIMITS), data)


@pytest.mark.parametrize(
    ("data", "cure"),
    [
        (encode_length(655_361), ": --max-update-size 655361 takes it"),
        (encode_length(2**48), f": --max-update-size {2**48} takes it"),
        (encode_length(2**48 + 1), ""),
        (encode_length(4097) + b"{", ": --max-json-size 4097 takes it"),
    ],
)
def test_a_refusal_for_length_names_the_option_and_the_number_that_takes_it(data: bytes, cure: str) -> None:
    with pytest.raises(FrameRefused) as caught:
        feed(FrameReader(LIMITS), data)
    assert str(caught.value).partition(" may come")[2] == cure


def test_where_no_option_would_take_it_none_is_named() -> None:
    for limits in (FrameLimits(), FrameLimits(either=10)):
        with pytest.raises(FrameRefused, match=r"may come$"):
            feed(FrameReader(limits), encode_length(11))
    with pytest.raises(FrameRefused, match=r"may come$"):
        feed(FrameReader(FrameLimits(json=2**21)), encode_length(2**21 + 1))


def test_an_encoding_that_is_not_expected_is_refused() -> None:
    with pytest.raises(FrameRefused, match="a pickle body where none may come"):
        feed(FrameReader(FrameLimits(json=100)), frame(b"\x80\x04."))


@pytest.mark.parametrize("body", [b"", b"{}", b"\x80\x04.", b"no frame of ours", b"\x80" + bytes(2 * OPENING_BYTES)])
def test_an_end_that_takes_either_encoding_takes_any_body_that_is_not_too_long(body: bytes) -> None:
    reader = FrameReader(FrameLimits(either=3 * OPENING_BYTES))
    feed(reader, frame(body))
    assert reader.complete
    assert bytes(reader.body) == body
    with pytest.raises(FrameRefused, match="at most 196608"):
        feed(FrameReader(FrameLimits(either=3 * OPENING_BYTES)), encode_length(3 * OPENING_BYTES + 1))


def test_nothing_is_expected_where_nothing_may_come() -> None:
    with pytest.raises(FrameRefused, match="at most 0"):
        feed(FrameReader(FrameLimits()), encode_length(1))
