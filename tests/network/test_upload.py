"""The connection that brings an update: whose it is, what is decided of it, and whose its memory is then."""

from collections.abc import Callable, Hashable
from dataclasses import replace
from math import inf

import pytest
import torch

from flserver import events as e
from flserver.aggregation.checks import Inspection, inspect
from flserver.aggregation.steps import step_of
from flserver.errors import TooDifferent
from flserver.identity.peer import Peer
from flserver.identity.roster import Member, Roster
from flserver.identity.rules import Identity
from flserver.models.state import State
from flserver.network.memory import Room
from flserver.rounds import Attempt
from flserver.rounds.updates import EndedAttempt
from tests.network.frames import framed
from tests.network.served import LIMIT, PEER, STRANGER, Line, Network, linear, update
from tests.patience import eventually
from tests.recorder import raising
from tests.sums import AnyOrder

SIZE = 200  # of a model of 160 KB: its update needs room
NO_PICKLE = b"\x80\x04X"  # begins as one, and is refused by who reads it


@pytest.fixture
def network(network_of: Callable[..., Network]) -> Network:
    return network_of(module=linear(SIZE), rules={"min_updates": 2})


def begun(network: Network, *client_ids: str) -> Attempt:
    """An attempt at a round whose model these clients have."""
    lines = [network.registered(client_id) for client_id in client_ids]
    attempt = network.begin()
    for line in lines:
        line.receive()
    return attempt


def one_update(line: Line) -> e.UpdateReceived:
    (event,) = line.of(e.UpdateReceived)
    return event


# --- an update that counts ------------------------------------------------------------------------------------------


def test_an_update_is_folded_only_once_it_is_on_record(network: Network) -> None:
    attempt, at_the_time = begun(network, "a"), []

    def look() -> None:
        at_the_time.append((attempt.recording, dict(network.exchange._updates.waiting)))

    network.recorder.before[e.UpdateReceived] = look
    line = network.uploaded("a", linear(SIZE, value=1.0))
    assert at_the_time == [(1, {})], "decided, and waited for, but not to be had"
    assert attempt.recording == 0
    ready = network.exchange.take_ready(attempt, inf)
    assert not isinstance(ready, EndedAttempt)
    ((seat, submission),) = ready
    assert (seat.client_id, seat.update_id) == ("a", one_update(line).update_id)
    assert float(submission.tensors["weight"].sum()) == SIZE * SIZE


def test_an_update_is_on_record_with_what_was_found(network: Network) -> None:
    begun(network, "a", "b")
    metrics = {"loss": {"received": 2.5, "trained": 1.0}}
    line = network.uploaded("a", linear(SIZE, value=1.0), metrics=metrics)
    assert line.story() == ["opened", "in <MODEL> ok", "update counts", "closed, upload of a: closed"]
    event, (message,) = one_update(line), line.of(e.MessageReceived)
    assert (event.answers_round, event.answers_attempt, event.arrived_round, message.round) == (1, 1, 1, 1)
    assert (event.data_size, event.bytes, event.identity) == (10, message.bytes, "claimed")
    assert event.update_norm == pytest.approx((SIZE * (SIZE + 1)) ** 0.5)
    assert event.wait_seconds is not None
    assert [(m.name, m.measured_on, m.value) for m in event.metrics] == [
        ("loss", "received", 2.5),
        ("loss", "trained", 1.0),
    ]
    other = network.uploaded("b", linear(SIZE, value=1.0))
    assert one_update(other).update_digest == event.update_digest
    assert one_update(other).update_id == event.update_id + 1


@pytest.mark.parametrize(("value", "cosine"), [(2.0, 1.0), (-2.0, -1.0), (0.0, None)])
def test_an_updates_direction_is_on_record_where_there_was_a_step(
    network: Network, value: float, cosine: float | None
) -> None:
    model = network.exchange.model
    before = {name: torch.full_like(tensor, -1.0) for name, tensor in model.state.items()}
    network.exchange.replace_model(replace(model, step=step_of(before, model.state)))
    begun(network, "a")
    event = one_update(network.uploaded("a", linear(SIZE, value=value)))
    assert event.update_cosine == (None if cosine is None else pytest.approx(cosine))


def test_the_memory_of_an_update_that_counts_is_given_back_by_whoever_folded_it(network: Network) -> None:
    attempt = begun(network, "a", "b")
    for client_id in "ab":
        network.uploaded(client_id, linear(SIZE, value=1.0))
    assert network.memory.in_use >= 2 * SIZE * SIZE * 4, "the sessions are over"
    network.exchange.close_attempt(attempt).updates.release()
    assert network.memory.in_use == 0


def test_updates_do_not_disturb_each_other_in_memory_that_is_used_again(network: Network) -> None:
    attempt = begun(network, "a", "b")
    network.uploaded("a", linear(SIZE, value=1.0))
    network.uploaded("a", linear(SIZE, value=7.0))  # a duplicate, whose memory the next one gets
    network.uploaded("b", linear(SIZE, value=2.0))
    updates = network.exchange.close_attempt(attempt).updates
    sums = {client_id: float(s.tensors["weight"].mean()) for client_id, s in updates.waiting.items()}
    assert sums == {"a": 1.0, "b": 2.0}
    updates.release()


def test_in_any_order_an_update_is_folded_by_its_session_once_it_is_on_record(
    network_of: Callable[..., Network],
) -> None:
    on_record: list[tuple[int, int]] = []

    def before(what: str, update: State) -> None:
        if what == "add":
            on_record.append((len(network.recorder.of(e.UpdateReceived)), attempt.recording))

    strategy = AnyOrder(before)
    network = network_of(module=linear(SIZE), strategy=strategy, accept_dtypes={"float16"})
    attempt = begun(network, "a", "b", "c")
    network.uploaded("b", linear(SIZE, value=4.0))
    network.uploaded("c", linear(SIZE, value=6.0).half())
    assert on_record == [(1, 1), (2, 1)], "and the attempt waits for it"
    assert (network.memory.in_use, network.memory.lanes._held) == (0, set()), "although a is still on the way"
    assert (attempt.recording, set(network.exchange._updates.taken)) == (0, {"b", "c"})
    assert not {"MainThread", "coordinator"} & set(strategy.threads)
    assert float(strategy.finish()["weight"].mean()) == 5.0


def test_an_update_for_which_the_strategy_has_no_room_is_rejected_for_its_size(
    network_of: Callable[..., Network],
) -> None:
    def before(what: str, update: State) -> None:
        assert what == "reserve", "nothing of it is folded"
        raise TooDifferent("it differs in more integers than are kept")

    network = network_of(module=linear(SIZE), strategy=AnyOrder(before))
    attempt = begun(network, "a", "b")
    line = network.uploaded("a", linear(SIZE, value=1.0))
    assert line.story()[1:3] == [
        "in <MODEL> ok",
        "update rejected: size: it differs in more integers than are kept",
    ]
    assert attempt.seats["a"].answered
    assert network.memory.in_use == 0


def test_an_update_that_is_converted_has_memory_of_its_own_and_gives_the_other_back(
    network_of: Callable[..., Network],
) -> None:
    network = network_of(module=linear(SIZE), accept_dtypes={"float16"})
    attempt = begun(network, "a")
    line = network.uploaded("a", linear(SIZE, value=1.5).half())
    assert line.story()[2] == "update counts"
    assert "float16" in str(line.of(e.MessageReceived)[0].reason)
    updates = network.exchange.close_attempt(attempt).updates
    (submission,) = updates.waiting.values()
    assert submission.tensors["weight"].dtype == torch.float32
    assert float(submission.tensors["weight"].mean()) == 1.5
    updates.release()
    assert network.memory.in_use == 0


def test_an_update_whose_conversion_the_stop_finds_without_room_has_its_row(
    network_of: Callable[..., Network], monkeypatch: pytest.MonkeyPatch
) -> None:
    network = network_of(module=linear(SIZE), accept_dtypes={"float16"})
    begun(network, "a")
    lanes: list[int] = []
    real = network.memory.take

    def take(size: int, owner: Hashable, share: int) -> Room:
        lanes.append(len(network.memory.lanes._held))
        if len(lanes) > 1:
            network.memory.close()
        return real(size, owner, share)

    monkeypatch.setattr(network.memory, "take", take)
    line = network.uploaded("a", linear(SIZE, value=1.5).half())
    assert line.story()[1] == "in <MODEL> failed: the server is stopping"
    assert lanes == [0, 0], "its own lane is not in its way"


# --- one that does not ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("module", "reason"),
    [
        (linear(20), "shape: weight is [20, 20] where the model has [200, 200]"),
        (torch.nn.Linear(SIZE, SIZE, bias=False), "names: the update lacks 'bias'"),
        (linear(SIZE, value=float("nan")), "non_finite: weight holds NaN or infinity"),
    ],
    ids=["shape", "names", "non_finite"],
)
def test_an_update_that_cannot_be_averaged_is_rejected_and_answers_its_model(
    network: Network, module: torch.nn.Module, reason: str
) -> None:
    attempt = begun(network, "a", "b")
    line = network.uploaded("a", module)
    assert line.story()[1:3] == ["in <MODEL> ok", f"update rejected: {reason}"]
    assert one_update(line).update_norm is None
    assert attempt.seats["a"].decision == "rejected"
    assert [seat.client_id for seat in network.rounds.waited_for()] == ["b"]
    assert network.memory.in_use == 0


def test_a_second_answer_is_a_duplicate(network: Network) -> None:
    attempt = begun(network, "a", "b")
    first = network.uploaded("a", linear(SIZE, value=1.0))
    again, other = (network.uploaded("a", linear(SIZE, value=value)) for value in (1.0, 2.0))
    assert again.story()[2] == "update duplicate: the same update as the one that answered round 1"
    assert other.story()[2] == "update duplicate: another update than the one that answered round 1"
    assert one_update(again).answers_round is None
    assert attempt.seats["a"].update_id == one_update(first).update_id


def test_an_answer_after_the_attempt_is_late(network: Network) -> None:
    attempt = begun(network, "a", "b")
    network.exchange.close_attempt(attempt).updates.release()
    line = network.uploaded("a", linear(SIZE, value=1.0))
    assert line.story()[1:] == [
        "in <MODEL> ok",
        "update late: attempt 1 of round 1 is over",
        "closed, upload of a: closed",
    ]
    assert (one_update(line).answers_round, one_update(line).arrived_round) == (1, None)
    assert network.memory.in_use == 0


def test_an_upload_that_connected_before_the_model_was_handed_over_does_not_answer_it(network: Network) -> None:
    trainer = network.registered("a")
    early = network.connect()
    network.begin()
    trainer.receive()
    early.send(update("a", linear(SIZE))).ended()
    assert early.story()[2] == "update duplicate: connected before the model was sent"
    answer = network.uploaded("a", linear(SIZE))
    assert answer.story()[2] == "update counts"


# --- one that is refused --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [3, 100_000])
def test_an_upload_from_where_nobody_registered_is_read_to_its_end_and_never_by_the_pickle_machine(
    network: Network, size: int
) -> None:
    network.registered("a")
    body = NO_PICKLE.ljust(size, b"\0")
    why = "an upload, and no client has registered from 10.0.0.9"
    line = network.connect(STRANGER).send(body).ended()
    assert line.story() == ["opened", f"in None refused: {why}", f"closed, unknown of None: {why}"]
    (message,) = line.of(e.MessageReceived)
    assert (message.bytes, message.encoding) == (len(framed(body)), "pickle")
    assert message.digest is not None
    (read,) = network.connect(PEER).send(body).ended().of(e.MessageReceived)
    assert read.outcome == "refused"
    assert read.reason != why, "from where somebody registered it is read"
    assert network.memory.in_use == 0


def test_an_upload_for_nobody_has_its_row_before_its_tensors_are_looked_at(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flserver.network.upload.as_tensor", raising(AssertionError("looked at")))
    begun(network, "a")
    line = network.uploaded("z", linear(SIZE))
    why = "an update for client z, which has not registered"
    assert line.story()[1:] == [f"in <MODEL> refused: {why}", f"closed, upload of z: {why}"]
    assert line.of(e.MessageReceived)[0].client_id == "z"
    assert network.memory.in_use == 0


def test_an_upload_for_somebody_else_is_not_put_down_as_that_client(network: Network) -> None:
    begun(network, "a")
    network.registered("b", STRANGER)
    line = network.uploaded("a", linear(SIZE), STRANGER)
    why = "client a registered from 10.0.0.1, an upload from 10.0.0.9 does not count"
    assert line.story()[1:] == [f"in <MODEL> refused: {why}", f"closed, upload of None: {why}"]
    assert line.of(e.MessageReceived)[0].client_id is None
    assert network.uploaded("a", linear(SIZE)).story()[2] == "update counts"


def many_names(of: int) -> torch.nn.Module:
    """A module in which ``of`` names stand for one tensor."""
    module, shared = linear(SIZE), torch.nn.Parameter(torch.zeros(SIZE, SIZE))
    for number in range(of):
        module.register_parameter(f"w{number}", shared)
    return module


def test_tensors_that_are_together_too_large_are_refused_before_they_are_looked_at(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flserver.network.upload.inspect", raising(AssertionError("looked at")))
    attempt = begun(network, "a")
    body = update("a", many_names(10))
    assert len(body) < LIMIT
    line = network.connect().send(body).ended()
    why = f"its tensors hold more than {network.context.limits.tensors} bytes together"
    assert line.story()[1:] == [
        f"in <MODEL> refused: {why}",
        f"update rejected: size: {why}",
        f"closed, upload of a: {why}",
    ]
    assert attempt.seats["a"].decision == "rejected", "nobody waits for it"
    assert network.memory.in_use == 0


def test_who_may_no_longer_speak_when_it_is_decided_is_refused(
    network_of: Callable[..., Network], monkeypatch: pytest.MonkeyPatch
) -> None:
    identity = Identity(roster=Roster([Member(client_id="a")]))
    network = network_of(module=linear(SIZE), identity=identity)

    def looked_at_while_the_roster_changes(tensors: State, *more: object) -> Inspection:
        identity.roster = Roster([Member(client_id="b")])
        return inspect(tensors, *more)  # type: ignore[arg-type]

    monkeypatch.setattr("flserver.network.upload.inspect", looked_at_while_the_roster_changes)
    begun(network, "a")
    line = network.uploaded("a", linear(SIZE))
    why = "client a is not on the roster"
    assert line.story()[1:] == [f"in <MODEL> refused: {why}", f"closed, upload of None: {why}"]
    assert network.memory.in_use == 0


def test_an_address_has_no_more_updates_under_way_than_its_clients_may_have(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flserver.network.lanes.LANE_SECONDS", 0.0)  # who stalls keeps nobody waiting
    other = Peer(host="10.0.0.2", port=1)
    begun(network, "a")
    network.registered("b", other)
    body = NO_PICKLE.ljust(LIMIT, b"\0")
    stalled = [network.connect() for _ in range(2)]
    for line in stalled:
        line.trainer.sendall(framed(body)[:-1])
    eventually(lambda: all(line.session.first_bytes == len(framed(body)) - 1 for line in stalled))
    line = network.connect().send(body).ended()
    why = f"more than {2 * LIMIT} bytes of updates are under way from where it comes"
    assert line.story()[1:] == [
        f"in None refused: {why}",
        f"update rejected: size: {why}",
        f"closed, upload of a: {why}",
    ], "nobody else has registered from there"
    assert line.of(e.MessageReceived)[0].bytes == len(framed(body)), "it was read to its end"
    assert why not in network.connect(other).send(body).ended().story()[1]


# --- what we do wrong -----------------------------------------------------------------------------------------------


def test_a_defect_while_an_update_is_looked_at_leaves_its_model_unanswered(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun(network, "a")
    with monkeypatch.context() as broken:
        broken.setattr("flserver.network.upload.inspect", raising(ZeroDivisionError("ours")))
        line = network.connect().send(update("a", linear(SIZE)))
        with pytest.raises(ZeroDivisionError):
            line.ended()
    why = "server error: ZeroDivisionError: ours"
    assert line.story()[1:] == [f"in None refused: {why}", f"closed, upload of a: {why}"]
    assert network.memory.in_use == 0
    assert network.uploaded("a", linear(SIZE)).story()[2] == "update counts"


def test_an_update_that_cannot_be_put_on_record_answers_nothing(network: Network) -> None:
    attempt = begun(network, "a")
    network.recorder.before[e.UpdateReceived] = raising(ZeroDivisionError("ours"))
    line = network.connect().send(update("a", linear(SIZE, value=9.0)))
    with pytest.raises(ZeroDivisionError):
        line.ended()
    assert line.story()[1:] == ["in <MODEL> ok", "closed, upload of a: server error: ZeroDivisionError: ours"]
    assert network.memory.in_use == 0
    assert (network.exchange._updates.waiting, attempt.recording) == ({}, 0), "nor does the attempt wait for it"
    network.recorder.before.clear()
    assert network.uploaded("a", linear(SIZE, value=1.0)).story()[2] == "update counts"
    ended = network.exchange.close_attempt(attempt)
    assert {float(s.tensors["weight"].mean()) for s in ended.updates.waiting.values()} == {1.0}
    ended.updates.release()
