"""The bytes of a round's model: written once, used again, and taken away from whoever never reads them."""

import pytest
import torch
from torch import nn

from flserver.rounds.broadcast import MOST_BUFFERS, Broadcast, BroadcastBuffers, call
from flserver.wire.template import Template
from tests.recorder import raising


def buffers() -> BroadcastBuffers:
    return BroadcastBuffers(Template.of({"header": "<MODEL>", "model": nn.Linear(2, 2)}))


def state(value: float) -> dict[str, torch.Tensor]:
    return {"weight": torch.full((2, 2), value), "bias": torch.full((2,), value)}


def rendered(made: BroadcastBuffers, rounds: int, readers: int) -> list[Broadcast]:
    """Broadcasts of so many rounds, each with so many that never read it to the end."""
    broadcasts: list[Broadcast] = []
    for number in range(rounds):
        broadcasts.append(made.render(state(number)))
        for _ in range(readers):
            broadcasts[-1].acquire()
    return broadcasts


def test_two_buffers_in_turn_are_enough_where_everyone_reads() -> None:
    broadcasts = rendered(buffers(), rounds=6, readers=0)
    assert len(set(map(id, broadcasts))) == 2
    assert broadcasts[0] is not broadcasts[1]


def test_a_buffer_is_not_written_while_somebody_reads_it() -> None:
    made = buffers()
    (first,) = rendered(made, rounds=1, readers=1)
    before = bytes(first.body)
    current: Broadcast = first
    for number in range(1, MOST_BUFFERS):
        current = made.render(state(number))
        assert current is not first
    assert (bytes(first.body), first.revoked) == (before, False)
    first.release()
    assert first in {made.render(state(9)), made.render(state(9))}, "and then used again"


def test_readers_that_never_end_have_the_oldest_taken_away() -> None:
    made = buffers()
    broadcasts = rendered(made, rounds=10, readers=2)
    kept = [broadcast for broadcast in broadcasts if not broadcast.revoked]
    assert kept == broadcasts[-len(kept) :], "the newest"
    assert len(kept) <= MOST_BUFFERS
    current, reading = broadcasts[-1], list(broadcasts)
    for number in range(6):
        for broadcast in [b for b in reading if b.revoked]:  # its senders notice, and stop
            reading.remove(broadcast)
            broadcast.release()
            broadcast.release()
        current = made.render(state(number))
        assert not current.revoked, "one that was taken away does not come back"
    assert len(made._buffers) <= MOST_BUFFERS


def test_a_defect_in_one_session_is_logged_and_the_session_is_rung(caplog: pytest.LogCaptureFixture) -> None:
    rung: list[str] = []
    call(lambda: rung.append("fails"), raising(ZeroDivisionError("ours")), small=True)
    call(lambda: rung.append("large"), raising(AssertionError("a large model goes by its session")), small=False)
    call(lambda: rung.append("not all"), lambda: False, small=True)
    call(lambda: rung.append("sent"), lambda: True, small=True)
    assert rung == ["fails", "large", "not all"]
    assert "ZeroDivisionError: ours" in caplog.text
