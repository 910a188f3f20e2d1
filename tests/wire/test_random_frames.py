"""Frames in every cut: what is read, or refused, and when, does not depend on how the bytes arrive."""

import tracemalloc
from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from flserver.errors import FrameRefused
from flserver.wire.framing import LENGTH_BYTES, OPENING_BYTES, FrameLimits, FrameReader, encode_length
from tests.examples import times

OVERHEAD = 4 * 1024  # bytes of the reader itself
LONG = 3 * OPENING_BYTES

lengths = st.integers(1, 200) | st.sampled_from((OPENING_BYTES - 1, OPENING_BYTES, OPENING_BYTES + 1, LONG))
odd_lengths = st.sampled_from((0, LONG + 1, 2**31, 2**63, 2**64 - 1, int.from_bytes(b"GET / HT", "big")))
allowed = st.sampled_from((0, 1, 100, 4096, LONG))
limits = st.builds(FrameLimits, json=allowed, pickle=allowed)
firsts = st.sampled_from((b"{", b"\x80")) | st.binary(min_size=1, max_size=1)
cuts = st.lists(st.integers(1, 9) | st.integers(1, LONG), max_size=40)


@dataclass
class Outcome:
    """What became of some bytes: how many were taken, and the frame or the reason."""

    taken: int
    length: int | None
    encoding: str
    body: bytes
    complete: bool
    reason: str | None


def feed(limit: FrameLimits, data: bytes, sizes: list[int]) -> Outcome:
    """Feeds ``data`` in pieces of ``sizes``, over and over, as far as the reader gives space."""
    reader, taken, reason, turn = FrameReader(limit), 0, None, 0
    try:
        while taken < len(data) and not reader.complete:
            if reader.needs_room:
                assert reader.length is not None
                reader.give_room(memoryview(bytearray(reader.length)))
            space = reader.space()
            assert len(space) > 0
            piece = data[taken : taken + min(len(space), sizes[turn % len(sizes)])]
            space[: len(piece)] = piece
            taken, turn = taken + len(piece), turn + 1
            reader.received(len(piece))
            assert reader.bytes_received == taken
    except FrameRefused as error:
        reason = str(error)
        assert reason.isascii()
        assert reason.isprintable()
        assert len(reason) < 200
    body = b"" if reason else bytes(reader.body)
    return Outcome(taken, reader.length, reader.encoding, body, reason is None and reader.complete, reason)


def expected(limit: FrameLimits, data: bytes) -> Outcome:
    """The rules, written down once more."""
    head, body = data[:LENGTH_BYTES], data[LENGTH_BYTES:]
    if len(head) < LENGTH_BYTES:
        return Outcome(len(head), None, "unknown", b"", False, None)
    length = int.from_bytes(head, "big")
    if not 0 < length <= max(limit.json, limit.pickle):
        return Outcome(LENGTH_BYTES, None, "unknown", b"", False, "refused")
    if not body:
        return Outcome(LENGTH_BYTES, length, "unknown", b"", False, None)
    encoding = {0x7B: "json", 0x80: "pickle"}.get(body[0], "unknown")
    if encoding == "unknown" or length > getattr(limit, encoding):
        return Outcome(LENGTH_BYTES + 1, length, encoding, b"", False, "refused")
    kept = body[:length]
    return Outcome(LENGTH_BYTES + len(kept), length, encoding, kept, len(kept) == length, None)


@times(4)
@given(limits, lengths | odd_lengths, firsts, st.integers(0, 300), st.booleans(), cuts)
def test_any_cut_has_the_outcome_that_one_feed_has(
    limit: FrameLimits, length: int, first: bytes, short: int, more: bool, sizes: list[int]
) -> None:
    held = length if length <= LONG else 10
    data = encode_length(length) + (first + bytes(n % 251 for n in range(max(held - 1, 0))))
    data = data + b"the next frame" if more else data[: len(data) - short]
    whole, cut, rules = feed(limit, data, [len(data) or 1]), feed(limit, data, [*sizes, 4096]), expected(limit, data)
    assert (cut.length, cut.encoding, cut.body, cut.complete, cut.reason) == (
        whole.length,
        whole.encoding,
        whole.body,
        whole.complete,
        whole.reason,
    )
    assert (cut.length, cut.encoding, cut.body, cut.complete) == (
        rules.length,
        rules.encoding,
        rules.body,
        rules.complete,
    )
    assert (cut.reason is None) == (rules.reason is None)
    if rules.reason is None:
        assert cut.taken == whole.taken == rules.taken


@times(4)
@given(limits, lengths | odd_lengths, firsts)
def test_what_may_not_come_is_refused_with_its_eighth_or_ninth_byte(
    limit: FrameLimits, length: int, first: bytes
) -> None:
    data = encode_length(length) + first * 200
    assert feed(limit, data, [1]).taken == expected(limit, data).taken


@times(4)
@given(st.integers(1, 2**62), st.integers(0, 3 * OPENING_BYTES), st.integers(1, OPENING_BYTES))
def test_before_room_is_given_a_reader_takes_what_arrived_and_64_kib(length: int, arrived: int, step: int) -> None:
    data = (encode_length(length) + b"\x80" + bytes(arrived))[:arrived]
    step, taken = max(step, arrived // 100), 0
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        reader = FrameReader(FrameLimits(pickle=2**62))
        while taken < len(data) and not reader.needs_room and not reader.complete:
            space = reader.space()
            count = min(len(space), step, len(data) - taken)
            space[:count] = data[taken : taken + count]
            reader.received(count)
            taken += count
            del space
            now, peak = tracemalloc.get_traced_memory()
            assert now - before <= taken + OPENING_BYTES + OVERHEAD
            assert peak - before <= taken + OPENING_BYTES + count + OVERHEAD  # the piece itself is ours
    finally:
        tracemalloc.stop()
    if length > OPENING_BYTES:
        assert taken <= LENGTH_BYTES + OPENING_BYTES
        assert reader.needs_room == (taken == LENGTH_BYTES + OPENING_BYTES)


@times(4)
@given(st.integers(1, LONG), st.booleans(), cuts)
def test_a_discarded_body_is_read_to_its_end_into_the_opening_alone(
    length: int, is_json: bool, sizes: list[int]
) -> None:
    data = encode_length(length) + (b"{" if is_json else b"\x80") * length + b"the next frame"
    reader, taken = FrameReader(FrameLimits(json=LONG, pickle=LONG)), 0
    for size in [*sizes, *[4096] * (LONG // 4096 + 2)]:
        if reader.complete:
            break
        if reader.needs_room:
            reader.discard()
        count = min(len(reader.space()), size)
        assert 0 < count <= OPENING_BYTES
        reader.space()[:count] = data[taken : taken + count]
        reader.received(count)
        taken += count
        assert reader.kept_bytes <= OPENING_BYTES
    assert reader.complete
    assert taken == reader.bytes_received == LENGTH_BYTES + length
    assert len(reader.body) == min(length, OPENING_BYTES)
