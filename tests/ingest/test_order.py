"""What came before what is what the desk heard first, and what waits at a node is folded where it counts."""

import threading
from pathlib import Path
from unittest import mock

import pytest
import torch

from flserver import events as e
from flserver.identity.rules import Identity
from flserver.ingest import questions as q
from flserver.ingest import told as t
from flserver.ingest.asking import Asking
from flserver.ingest.batches import from_bytes
from flserver.ingest.door import NodeDoor, NodeSent
from flserver.ingest.folding import Layout, NodeFolding
from flserver.ingest.recording import NodeRecorder
from flserver.models.state import state_of
from flserver.rounds.broadcast import Ticket
from flserver.rounds.model import CurrentModel
from flserver.rounds.seats import Registration, Upload
from flserver.rounds.updates import Submission
from tests.e2e.harness import connect, send
from tests.ingest.several import Several
from tests.patience import PATIENCE, eventually
from tests.rounds.coordinated import PEER, tensors


def test_an_upload_that_was_accepted_before_its_model_was_handed_over_cannot_answer_it(tmp_path: Path) -> None:
    with Several(tmp_path, 2, clients=2) as several:
        a = several.peer("a")
        with connect(several.nodes[1].port) as early:
            eventually(lambda: several.nodes[1].place.open_connections == 1)
            b = several.peer("b", node=1)
            model = a.model()
            send(early, a.body(model))
            assert early.recv(1) == b""
        (update,) = several.recorder.wait_for(e.UpdateReceived)
        assert (update.decision, update.reason) == ("duplicate", "connected before the model was sent")
        a.port = several.nodes[1].port
        a.upload(model)
        b.answer()
        assert several.finish() == "completed"
        assert [event.decision for event in several.recorder.of(e.UpdateReceived)] == ["duplicate", None, None]


@pytest.mark.parametrize("small", [True, False])
def test_models_of_every_size_are_handed_over_and_that_is_on_record(tmp_path: Path, small: bool) -> None:
    with Several(tmp_path, 2, clients=2, small=small) as several:
        for peer in (several.peer("a"), several.peer("b", node=1)):
            threading.Thread(target=peer.answer).start()
        assert several.finish() == "completed"
        committed = several.recorder.of(e.RoundCommitted)[1]
        assert committed.clients == 2, "the whole model was handed over to both"
        assert committed.broadcast_seconds is not None
        waited = [event.wait_seconds for event in several.recorder.of(e.UpdateReceived)]
        assert all(seconds is not None and seconds >= 0 for seconds in waited)


def test_the_last_bytes_of_a_model_wait_for_the_desk() -> None:
    asking = Asking()
    asked = threading.Event()

    def answer() -> None:
        batch = asking.outbox.take(60.0)
        assert b"HandOver" in batch
        assert sent.handed_over_at is None
        asked.set()
        asking.answered(1, q.Done())

    sent = NodeSent(asking, t.Ticket(Registration("a", 1, False), 1, 1, 7, False), None)
    desk = threading.Thread(target=answer)
    desk.start()
    sent.hand_over(0.0)
    desk.join()
    assert asked.is_set()
    assert sent.handed_over_at is not None


@pytest.mark.parametrize("at_once", [True, False])
def test_a_model_that_its_session_sends_later_than_at_once_waits_for_the_desk(at_once: bool) -> None:
    asking, registration = Asking(), Registration("a", 1, False)
    door = NodeDoor(asking, Identity())
    door.confirm_registration(registration, lambda: None)
    door.begin(t.Began(1, 1, 1, None), CurrentModel(0, {}, None), mock.Mock())
    ticket = t.Ticket(registration, 1, 1, 7, True)
    door.bring(ticket)
    asking.outbox.take(0.0)
    with door.at_once(ticket):
        taken = door.next_ticket(registration) if at_once else None
    said = [item.said for item in from_bytes(asking.outbox.take(0.0))] if not at_once else []
    assert said == ([] if at_once else [t.TakenBack(7)])
    taken = taken or door.next_ticket(registration)
    assert isinstance(taken, Ticket)
    sent = threading.Thread(target=taken.sent.hand_over, args=(0.0,))
    sent.start()
    if not at_once:
        assert [item.said for item in from_bytes(asking.outbox.take(PATIENCE))] == [q.HandOver(7)]
        assert taken.sent.handed_over_at is None
        asking.answered(1, q.Done())
    sent.join(PATIENCE)
    assert taken.sent.handed_over_at is not None
    assert asking.outbox.take(0.0) == b""


def test_a_session_that_takes_its_model_before_it_could_be_sent_at_once_waits_for_the_desk() -> None:
    asking, registration = Asking(), Registration("a", 1, False)
    door = NodeDoor(asking, Identity())
    door.confirm_registration(registration, lambda: None)
    door.begin(t.Began(1, 1, 1, None), CurrentModel(0, {}, None), mock.Mock())
    door.bring(t.Ticket(registration, 1, 1, 7, True))
    asking.outbox.take(0.0)
    assert isinstance(door.next_ticket(registration), Ticket)
    assert [item.said for item in from_bytes(asking.outbox.take(0.0))] == [t.TakenBack(7)]


def test_models_that_a_crowded_node_cannot_send_at_once_are_taken_back_at_the_desk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(NodeRecorder, "crowded", True)
    said: list[tuple[str, int]] = []
    with Several(tmp_path, 1) as several:
        seated = several.nodes[0].place._seated
        taking_back, handing_over = seated.take_back, seated.hand_over

        def take_back(number: int) -> None:
            taking_back(number)
            said.append(("taken back", number))

        def hand_over(number: int) -> None:
            said.append(("handed over", number))
            handing_over(number)

        seated.take_back, seated.hand_over = take_back, hand_over  # type: ignore[method-assign]
        several.peer("a").answer()
        assert several.finish() == "completed"
    assert said == [("taken back", 1), ("handed over", 1)]


def test_what_was_held_against_an_older_model_is_looked_at_again() -> None:
    old, new = (CurrentModel(n, tensors(float(n), 0, 0), f"sha256:{n}") for n in (0, 1))
    models = [new]
    asking = Asking()
    folding = NodeFolding(asking, lambda: models[0])
    folding.layout = Layout({}, {"n"})
    offers = []

    def desk() -> None:
        for answer in (q.Stale(), q.Decided("rejected", "norm: far", None, 10, 1, None, False)):
            (item,) = from_bytes(asking.outbox.take(60.0))
            assert item.number is not None
            offers.append(item.said)
            asking.answered(item.number, answer)

    upload = Upload(update_id=1, client_id="a", peer=PEER, accepted_at=1, digest="d", norms=None, base_round=old.round)
    submission = Submission(upload, tensors(3.0, 0, 0), (), lambda: None)
    thread = threading.Thread(target=desk)
    thread.start()
    verdict = folding.offer(submission)
    thread.join()
    assert verdict.decision == "rejected"
    first, second = offers
    assert isinstance(first, q.Offer)
    assert isinstance(second, q.Offer)
    assert (first.base_round, second.base_round) == (0, 1)
    assert second.norms is not None
    assert second.norms.whole == 2.0, "from 1 to 3: against the model that has come"


@pytest.mark.parametrize("alone", [True, False], ids=["one of three", "two of three"])
def test_suspects_wait_at_their_node_until_it_is_settled_whether_they_count(tmp_path: Path, alone: bool) -> None:
    with Several(tmp_path, 2, rounds=4, clients=3, max_update_norm="auto") as several:
        a, b, c = several.peer("a"), several.peer("b", node=1), several.peer("c", node=1)
        for _ in range(3):
            for peer in (a, b, c):
                peer.answer(0.01)
        b.answer(1e9)
        c.answer(0.01 if alone else 1e9)
        last = state_of(a.answer(0.01))
        assert several.finish() == "completed"
        committed = several.recorder.of(e.RoundCommitted)[-1]
        counted = {one.client_id for one in committed.outcomes if one.update_id is not None}
        assert counted == ({"a", "c"} if alone else {"a", "b", "c"})
        assert [event.client_id for event in several.recorder.of(e.SuspectRejected)] == (["b"] if alone else [])
        made = several.exchange.model.state["fc1.bias"]
        expected = last["fc1.bias"] + (0.0 if alone else 2e9 / 3)
        assert torch.allclose(made, expected, rtol=1e-5)
