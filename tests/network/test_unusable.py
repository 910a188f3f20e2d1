"""Uploads that cannot be used: decided where their sender is known, and else on record with whose they could be."""

import mmap
import pickle
from collections.abc import Callable

import blake3
import pytest
import torch

from flserver import events as e
from flserver.errors import IdentityRefused
from flserver.identity.peer import Peer
from flserver.identity.roster import Member, Roster
from flserver.identity.rules import Identity
from flserver.network.unusable import MOST_NAMES
from flserver.rounds import Attempt
from tests.network.frames import framed
from tests.network.served import FORWARDER, LIMIT, PEER, STRANGER, Line, Network, linear, update
from tests.patience import eventually
from tests.recorder import raising

NO_PICKLE = b"\x80\x04X"  # begins as one, and is none
TOO_LONG = (LIMIT + 1).to_bytes(8, "big")


def begun(network: Network, *client_ids: str, peer: Peer = PEER) -> Attempt:
    """An attempt at a round whose model these clients have."""
    lines = [network.registered(client_id, peer) for client_id in client_ids]
    attempt = network.begin()
    for line in lines:
        line.receive()
    return attempt


def without_a_model(client_id: str) -> bytes:
    """An upload that says whose it is, and holds no module."""
    return pickle.dumps({"header": "<MODEL>", "id": client_id, "model": {"weight": torch.zeros(3)}})


def reason_of(line: Line) -> str:
    (message,) = line.of(e.MessageReceived)
    assert message.outcome == "refused"
    return str(message.reason)


def test_what_cannot_be_read_answers_the_model_of_the_one_client_that_is_there(network: Network) -> None:
    attempt = begun(network, "a")
    line = network.connect().send(NO_PICKLE).ended()
    why = reason_of(line)
    assert line.story()[1:] == [
        f"in None refused: {why}",
        f"update rejected: unreadable: {why}",
        f"closed, upload of a: {why}",
    ]
    (said,), (message,) = line.of(e.UpdateReceived), line.of(e.MessageReceived)
    assert (said.answers_round, message.round, message.client_id) == (1, 1, "a")
    assert (said.update_digest, said.update_norm, said.message_id) == (None, None, message.message_id)
    assert (attempt.seats["a"].decision, attempt.recording) == ("rejected", 0)
    assert network.rounds.waited_for() == []
    assert network.uploaded("a", linear()).story()[2].startswith("update duplicate")


def test_what_says_whose_it_is_answers_for_that_one_alone(network: Network) -> None:
    attempt = begun(network, "a", "b")
    line = network.connect().send(without_a_model("b")).ended()
    why = reason_of(line)
    assert line.story()[1:] == [
        f"in <MODEL> refused: {why}",
        f"update rejected: unreadable: {why}",
        f"closed, upload of b: {why}",
    ]
    assert [seat.client_id for seat in network.rounds.waited_for()] == ["a"]
    assert attempt.seats["b"].decision == "rejected"


def test_what_could_be_of_several_answers_nothing_and_names_them(network: Network) -> None:
    attempt = begun(network, "a", "b")
    line = network.connect().send(NO_PICKLE).ended()
    why = reason_of(line)
    assert why.endswith("; it could be of client a, b")
    assert line.story()[1:] == [f"in None refused: {why}", f"closed, upload of None: {why}"]
    assert len(network.rounds.waited_for()) == 2
    assert attempt.recording == 0
    assert [network.uploaded(client_id, linear()).story()[2] for client_id in "ab"] == ["update counts"] * 2


def test_of_many_only_some_are_named(network: Network) -> None:
    for number in range(MOST_NAMES + 2):
        network.registered(f"{number:02d}")
    assert reason_of(network.connect().send(NO_PICKLE).ended()).endswith(", 08, 09 and 2 more")


def test_on_this_machine_an_address_does_not_say_whose_it_is(network: Network) -> None:
    begun(network, "a", peer=FORWARDER)
    line = network.connect(FORWARDER).send(NO_PICKLE).ended()
    assert reason_of(line).endswith("; it could be of client a")
    assert network.uploaded("a", linear(), FORWARDER).story()[2] == "update counts"


def test_who_names_a_client_of_elsewhere_answers_nothing(network: Network) -> None:
    begun(network, "a")
    network.registered("b", STRANGER)
    line = network.connect(STRANGER).send(without_a_model("a")).ended()
    assert reason_of(line) == "client a registered from 10.0.0.1, an upload from 10.0.0.9 does not count"
    assert line.of(e.UpdateReceived) == []
    assert network.uploaded("a", linear()).story()[2] == "update counts"


SEVERAL, DEEP = b"\x80\x04](" + b"}" * 40_000 + b"e.", b"\x80\x04)" + b"\x85" * 900 + b"."


@pytest.mark.parametrize(
    "body",
    [update("a", linear(20)), update("a", linear(200)), SEVERAL, SEVERAL.ljust(LIMIT, b"}"), DEEP],
    ids=["small", "large", "dicts", "a million dicts", "tuples"],
)
@pytest.mark.parametrize("answered", [False, True])
def test_what_was_not_asked_for_is_a_duplicate_that_nobody_reads(
    network: Network, monkeypatch: pytest.MonkeyPatch, answered: bool, body: bytes
) -> None:
    if answered:
        begun(network, "a")
        assert network.uploaded("a", linear()).story()[2] == "update counts"
    else:
        network.registered("a")
    monkeypatch.setattr(network.context.decoding, "run", None)
    monkeypatch.setattr(network.memory, "take", None)
    line = network.connect().send(body).ended()
    (told,), (decided,) = line.of(e.MessageReceived), line.of(e.UpdateReceived)
    assert (told.client_id, told.outcome) == ("a", "ok" if b"<MODEL>" in body else "refused")
    assert told.digest == "blake3:" + blake3.blake3(body).hexdigest()
    assert (decided.decision, decided.update_digest, decided.metrics) == ("duplicate", None, ())
    why = "not read: an update has answered round 1" if answered else "no model of this client is unanswered"
    assert decided.reason == why
    assert network.memory.in_use == 0


def test_what_nobody_reads_has_its_row_also_where_its_sender_was_taken_off_the_roster_meanwhile(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    network.registered("a")
    monkeypatch.setattr(network.exchange, "offer", raising(IdentityRefused("client a is not on the roster")))
    line = network.connect().send(update("a", linear())).ended()
    assert line.story()[1:] == [
        "in <MODEL> refused: client a is not on the roster",
        "closed, upload of None: client a is not on the roster",
    ]


@pytest.mark.parametrize("peer", [FORWARDER, PEER], ids=["loopback", "two clients"])
def test_what_could_be_of_several_is_read_before_it_is_a_duplicate(network: Network, peer: Peer) -> None:
    network.registered("a", peer)
    if peer is PEER:
        network.registered("b", peer)
    (decided,) = network.uploaded("a", linear(), peer).of(e.UpdateReceived)
    assert decided.decision == "duplicate"
    assert decided.update_digest is not None


def test_who_has_not_registered_from_there_is_not_decided_at_all(network: Network) -> None:
    begun(network, "a")
    line = network.connect(STRANGER).send(without_a_model("a")).ended()
    why = "an upload, and no client has registered from 10.0.0.9"
    assert line.story()[1:] == [f"in None refused: {why}", f"closed, unknown of None: {why}"]
    assert len(network.rounds.waited_for()) == 1


@pytest.mark.parametrize("data", [TOO_LONG, TOO_LONG + b"\x80"])
def test_what_is_too_long_is_rejected_by_its_size_before_its_body_has_come(network: Network, data: bytes) -> None:
    attempt = begun(network, "a")
    line = network.connect(sent=data).ended()
    why = reason_of(line)
    assert why.startswith(f"a frame of {LIMIT + 1} bytes where at most {LIMIT} may come")
    assert line.story()[2:] == [
        f"update rejected: size: {why}",
        f"closed, unknown of a: {why}".replace("unknown", "upload"),
    ]
    assert (line.of(e.MessageReceived)[0].bytes, line.of(e.UpdateReceived)[0].bytes) == (8, 8)
    assert attempt.seats["a"].decision == "rejected"


@pytest.mark.parametrize(
    "data",
    [b"GET / HTTP/1.1\r\n\r\n", b"\xff" * 8, bytes(8), framed(b"hello"), (5000).to_bytes(8, "big") + b"{"],
    ids=["a request", "no length", "nothing", "no encoding", "a long registration"],
)
def test_what_is_no_upload_costs_the_client_that_is_there_nothing(network: Network, data: bytes) -> None:
    begun(network, "a")
    line = network.connect(sent=data).ended()
    assert line.of(e.UpdateReceived) == []
    assert "could be" not in reason_of(line)
    assert network.uploaded("a", linear()).story()[2] == "update counts"


def test_a_pickle_with_another_header_is_no_upload(network: Network) -> None:
    begun(network, "a")
    line = network.connect().send(pickle.dumps({"header": "<METADATA>", "id": "a"})).ended()
    why = reason_of(line)
    assert line.story()[1:] == [f"in <METADATA> refused: {why}", f"closed, register of a: {why}"]
    assert network.uploaded("a", linear()).story()[2] == "update counts"


def test_what_there_was_no_room_for_is_known_by_its_first_bytes(
    network_of: Callable[..., Network], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flserver.network.lanes.LANE_SECONDS", 0.0)  # who stalls keeps nobody waiting
    network = network_of(module=linear(300), kept=200_000)  # two clients, two updates of each under way
    attempt = begun(network, "a", "b")
    give_back = network.memory.give_back

    def used_again_at_once(buffer: mmap.mmap, charged: int) -> None:
        buffer[:] = bytes(len(buffer))
        give_back(buffer, charged)

    monkeypatch.setattr(network.memory, "give_back", used_again_at_once)
    body = update("b", linear(300))
    stalled = [network.connect() for _ in range(2)]
    for line in stalled:
        line.trainer.sendall(framed(body)[:-1])
    eventually(lambda: all(line.session.first_bytes == len(framed(body)) - 1 for line in stalled))
    line = network.connect().send(body).ended()
    why = reason_of(line)
    assert why == "more than 800000 bytes of updates are under way from where it comes"
    assert line.story()[1:] == [
        f"in <MODEL> refused: {why}",
        f"update rejected: size: {why}",
        f"closed, upload of b: {why}",
    ]
    assert line.of(e.MessageReceived)[0].bytes == len(framed(body)), "it was read to its end"
    assert [seat.client_id for seat in network.rounds.waited_for()] == ["a"]
    assert attempt.seats["b"].decision == "rejected"


def test_who_may_no_longer_speak_when_it_is_decided_answers_nothing(
    network_of: Callable[..., Network], monkeypatch: pytest.MonkeyPatch
) -> None:
    identity = Identity(roster=Roster([Member(client_id="a")]))
    network = network_of(identity=identity)
    attempt, offer = begun(network, "a"), network.exchange.offer

    def offered_when_the_roster_has_changed(upload: object) -> object:
        identity.roster = Roster([Member(client_id="b")])
        return offer(upload)  # type: ignore[arg-type]

    monkeypatch.setattr(network.exchange, "offer", offered_when_the_roster_has_changed)
    line = network.connect().send(NO_PICKLE).ended()
    why = reason_of(line)
    assert line.story()[1:] == [f"in None refused: {why}", f"closed, upload of None: {why}"]
    assert not attempt.seats["a"].answered


def test_one_that_cannot_be_put_on_record_answers_nothing(network: Network) -> None:
    attempt = begun(network, "a")
    network.recorder.before[e.UpdateReceived] = raising(ZeroDivisionError("ours"))
    line = network.connect().send(NO_PICKLE)
    with pytest.raises(ZeroDivisionError):
        line.ended()
    assert line.story()[-1] == "closed, upload of a: server error: ZeroDivisionError: ours"
    network.recorder.before.clear()
    assert (attempt.recording, attempt.seats["a"].answered) == (0, False)
    assert network.uploaded("a", linear()).story()[2] == "update counts"
