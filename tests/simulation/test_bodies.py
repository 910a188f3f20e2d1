"""What many trainers of a process receive: once in memory, whatever order it comes in, and never another's."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flserver.errors import FrameRefused
from flserver.simulation.bodies import Bodies, Body, Frames
from flserver.wire.framing import encode_length

FIRST, SECOND, THIRD = (b"\x80" + bytes(range(20)) + bytes([last]) * 20 for last in range(3))


def framed(*bodies: bytes) -> bytes:
    return b"".join(encode_length(len(body)) + body for body in bodies)


def bytes_of(body: Body) -> bytes:
    return bytes(body._bytes)


Turns = list[tuple[int, int]]
turns = st.lists(st.tuples(st.integers(0, 2), st.integers(1, 30)), max_size=30)


def play(frames: list[Frames], found: list[list[Body]], sent: list[bytes], turns: Turns) -> None:
    """Let each receive what it is sent, in pieces: whose turn it is, and how many bytes."""
    left = list(sent)
    for who, count in turns + [(who, len(body)) for who, body in enumerate(sent)]:
        part, left[who] = left[who][:count], left[who][count:]
        for body in frames[who].feed(part):
            frames[who].after = body.number
            found[who].append(body)


@given(st.tuples(turns, turns, turns))
def test_whoever_is_quicker_each_receives_what_it_was_sent(rounds: tuple[Turns, ...]) -> None:
    """Three trainers and rounds; the last trainer is not sent the second one."""
    bodies = Bodies()
    frames, found = [Frames(bodies, 0) for _ in range(3)], [list[Body]() for _ in range(3)]
    for model, turns in zip((FIRST, SECOND, THIRD), rounds, strict=True):
        play(frames, found, [framed(model), framed(model), b"" if model is SECOND else framed(model)], turns)
    whole = [FIRST, SECOND, THIRD]
    assert [[bytes_of(body) for body in of] for of in found] == [whole, whole, [FIRST, THIRD]]
    assert [[body.number for body in of] for of in found] == [[1, 2, 3], [1, 2, 3], [1, 3]]
    assert found[0][0] is found[1][0] is found[2][0]
    assert found[0][2] is found[1][2] is found[2][1]


@given(turns)
def test_one_who_reads_an_earlier_round_when_others_read_the_next_has_that_one(turns: Turns) -> None:
    bodies = Bodies()
    frames, found = [Frames(bodies, 0) for _ in range(3)], [list[Body]() for _ in range(3)]
    play(frames, found, 3 * [framed(FIRST, SECOND, THIRD)], turns)
    assert [[bytes_of(body) for body in of] for of in found] == 3 * [[FIRST, SECOND, THIRD]]
    assert [[body.number for body in of] for of in found] == 3 * [[1, 2, 3]]


def test_what_is_the_same_for_all_is_one_body() -> None:
    bodies = Bodies()
    frames = [Frames(bodies, 0) for _ in range(5)]
    found = {id(body) for one in frames for body in one.feed(framed(FIRST))}
    assert len(found) == 1


def test_who_comes_back_begins_with_the_next_one() -> None:
    bodies = Bodies()
    (first,) = Frames(bodies, 0).feed(framed(FIRST))
    (second,) = Frames(bodies, first.number).feed(framed(SECOND))
    assert (first.number, second.number) == (1, 2)
    assert bytes_of(second) == SECOND


@pytest.mark.parametrize("length", [0, 2**40])
def test_a_length_that_cannot_be_is_refused(length: int) -> None:
    with pytest.raises(FrameRefused, match=f"announced {length} bytes"):
        list(Frames(Bodies(), 0).feed(encode_length(length)))
