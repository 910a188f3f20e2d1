"""What many trainers of a process receive: once in memory, whatever order it comes in, and never another's."""

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from flserver.errors import FrameRefused
from flserver.models.architectures import build, payload_of, wire_module
from flserver.simulation.bodies import KEPT, Bodies, Body, Frames
from flserver.wire.framing import encode_length
from flserver.wire.template import Template

FIRST, SECOND, THIRD = (b"\x80" + bytes(range(20)) + bytes([last]) * 20 for last in range(3))
# Another process of the server: the same but for where things lie in its memory, which stands among the first bytes.
OTHERS = [body[:10] + b"else" + body[14:] for body in (FIRST, SECOND, THIRD)]


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
        found[who].extend(frames[who].feed(part))


@given(st.tuples(turns, turns, turns))
def test_whoever_is_quicker_each_receives_what_it_was_sent(rounds: tuple[Turns, ...]) -> None:
    """Three trainers and rounds; the last trainer is not sent the second one."""
    bodies = Bodies()
    frames, found = [Frames(bodies) for _ in range(3)], [list[Body]() for _ in range(3)]
    for model, turns in zip((FIRST, SECOND, THIRD), rounds, strict=True):
        play(frames, found, [framed(model), framed(model), b"" if model is SECOND else framed(model)], turns)
    whole = [FIRST, SECOND, THIRD]
    assert [[bytes_of(body) for body in of] for of in found] == [whole, whole, [FIRST, THIRD]]
    assert found[0][0] is found[1][0] is found[2][0]
    assert found[0][2] is found[1][2] is found[2][1]


@given(turns)
def test_one_who_reads_an_earlier_round_when_others_read_the_next_has_that_one(turns: Turns) -> None:
    bodies = Bodies()
    frames, found = [Frames(bodies) for _ in range(3)], [list[Body]() for _ in range(3)]
    play(frames, found, 3 * [framed(FIRST, SECOND, THIRD)], turns)
    assert [[bytes_of(body) for body in of] for of in found] == 3 * [[FIRST, SECOND, THIRD]]


@given(st.tuples(turns, turns, turns))
def test_what_two_processes_of_a_server_send_is_kept_apart(rounds: tuple[Turns, ...]) -> None:
    bodies = Bodies()
    frames, found = [Frames(bodies) for _ in range(3)], [list[Body]() for _ in range(3)]
    for one, other, turns in zip((FIRST, SECOND, THIRD), OTHERS, rounds, strict=True):
        play(frames, found, [framed(one), framed(other), framed(one)], turns)
    whole = [FIRST, SECOND, THIRD]
    assert [[bytes_of(body) for body in of] for of in found] == [whole, OTHERS, whole]


def test_what_is_the_same_for_all_is_one_body() -> None:
    bodies = Bodies()
    frames = [Frames(bodies) for _ in range(5)]
    found = {id(body) for one in frames for body in one.feed(framed(FIRST))}
    assert len(found) == 1


ALIVE: list[torch.nn.Module] = []  # so that no two are at the same place in memory


def sent(bodies: Bodies, added: float) -> Body:
    """A model as a process of a server sends it, whose numbers are some fixed ones and so much."""
    module = copy.deepcopy(build("neural_net_helper:NeuralNet", 0))
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(added)
    ALIVE.append(module)
    made = Template.of({"header": "<MODEL>", "model": wire_module(module)}, payload_of)
    (body,) = Frames(bodies).feed(framed(bytes(made.buffer)))
    return body


def test_a_round_is_told_by_the_numbers_of_its_model_from_whichever_process_of_the_server_it_comes() -> None:
    bodies = Bodies()
    first, again, second = sent(bodies, 0.0), sent(bodies, 0.0), sent(bodies, 1.0)
    assert bytes_of(first) != bytes_of(again)
    assert [bodies.round_of(body, 0) for body in (first, again, first)] == [1, 1, 1]
    assert bodies.round_of(second, 1) == 2
    # One who comes back is not sent the first any more; one who missed it has the second all the same.
    assert bodies.round_of(second, 0) == 2
    # An attempt that is made again is a round more, for all who had the one before.
    assert [bodies.round_of(body, 2) for body in (second, sent(bodies, 1.0))] == [3, 3]


def test_as_many_bodies_are_kept_as_processes_of_the_server_need() -> None:
    bodies = Bodies()
    for round in range(1, 5):
        both = [sent(bodies, float(round)) for _ in range(2)]
        assert [bodies.round_of(body, round - 1) for body in both] == [round, round]
    assert sum(map(len, bodies._of_length.values())) <= 2 * KEPT * len(bodies._of_length)
    kept = sum(map(len, bodies._of_length.values()))
    assert kept > KEPT


@pytest.mark.parametrize("length", [0, 2**40])
def test_a_length_that_cannot_be_is_refused(length: int) -> None:
    with pytest.raises(FrameRefused, match=f"announced {length} bytes"):
        list(Frames(Bodies()).feed(encode_length(length)))
