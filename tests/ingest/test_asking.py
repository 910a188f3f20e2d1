"""Who waits for an answer: a thread, or what goes on when it is there."""

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from flserver.errors import StoreError
from flserver.ingest import folding as ingest_folding
from flserver.ingest import questions as q
from flserver.ingest import told as t
from flserver.ingest.asking import Asking, Waiting
from flserver.ingest.batches import Item, from_bytes
from flserver.ingest.folding import NodeFolding
from flserver.ingest.place import Place
from flserver.rounds.model import CurrentModel
from flserver.rounds.seats import Upload
from flserver.rounds.updates import Submission
from tests.ingest.several import Several
from tests.patience import PATIENCE, eventually
from tests.rounds.coordinated import PEER


def test_what_follows_an_answer_is_called_once_whether_the_answer_comes_before_or_after_that_is_said() -> None:
    called: list[str] = []
    early, late = Waiting(), Waiting()
    early.answered(q.Done())
    early.then(lambda: called.append("early"))
    late.then(lambda: called.append("late"))
    assert called == ["early"]
    late.answered(q.Done())
    assert called == ["early", "late"]
    assert (early.wait(), late.wait(), late.wait()) == (q.Done(),) * 3


def test_a_question_that_no_thread_waits_for_goes_with_the_next_one_that_does() -> None:
    asking = Asking()
    asking.ask_ahead(q.MoreIds("update_id"))
    asking.tell(t.Accepted(1))
    assert not asking.outbox.hurried
    asking.ask_ahead(q.Flush(), hurried=True)
    assert asking.outbox.hurried
    said = from_bytes(asking.outbox.take(0.0))
    assert said == [Item(q.MoreIds("update_id"), 1), Item(t.Accepted(1)), Item(q.Flush(), 2)]


def test_where_the_line_ends_all_that_wait_go_on_and_nobody_can_ask() -> None:
    asking, gone_on = Asking(), threading.Event()
    waiting = asking.ask_ahead(q.Flush())
    waiting.then(gone_on.set)
    asking.lost()
    assert gone_on.is_set()
    assert isinstance(waiting.wait(), q.Failure)
    with pytest.raises(StoreError, match="the coordinator is gone"):
        asking.ask_ahead(q.Flush())


def test_no_thread_of_a_node_waits_for_decisions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clients, decided = 8, threading.Event()
    with Several(tmp_path, 1, clients=clients) as several:
        (one,) = several.nodes
        workers, folding = one.node._server._workers, one.node._folding
        offer = one.place.held.offer

        def decide(*given: object) -> q.Decided:
            assert decided.wait(PATIENCE)
            return offer(*given)  # type: ignore[arg-type]

        monkeypatch.setattr(one.place.held, "offer", decide)
        peers = [several.peer(client) for client in range(clients)]
        for peer in peers:
            threading.Thread(target=peer.upload, args=(peer.model(),)).start()
        eventually(lambda: len(folding._asked) == clients)
        eventually(lambda: len(workers._threads) - workers._idle == clients)  # those of the registered
        decided.set()
        for peer in peers:
            peer.finished()
        assert several.finish() == "completed"
        assert not folding._asked


@pytest.mark.parametrize("lasts", ["large", "kept", "looked at again"])
def test_nobody_waits_for_what_lasts_after_its_decision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lasts: str
) -> None:
    together, found = threading.Barrier(2), list[str]()

    def meets(real: Callable[..., None]) -> Callable[..., None]:
        def both(self: NodeFolding, *given: object) -> None:
            try:
                together.wait(PATIENCE)
                found.append("met")
            except threading.BrokenBarrierError:
                found.append("one after the other")
            real(self, *given)

        return both

    answered = Place._answered
    if lasts == "looked at again":
        stale = [q.Stale(), q.Stale()]

        def answer(place: Place, question: object) -> q.Answer:
            return stale.pop() if isinstance(question, q.Offer) and stale else answered(place, question)

        monkeypatch.setattr(Place, "_answered", answer)
        monkeypatch.setattr(NodeFolding, "_look_again", meets(lambda self, submission: None))
    else:
        monkeypatch.setattr(NodeFolding, "_add", meets(NodeFolding._add))
    if lasts == "large":
        monkeypatch.setattr(ingest_folding, "QUICK", 0)
    elif lasts == "kept":
        monkeypatch.setattr(NodeFolding, "_keep", lambda *given: None)
    with Several(tmp_path, 1, clients=2) as several:
        (one,) = several.nodes
        if lasts == "kept":
            one.node._folding.kept = object()  # type: ignore[assignment]
        monkeypatch.setattr(one.node._server._workers, "overtake", lambda: False)  # nobody is let go on by the clock
        monkeypatch.setattr(one.node._server._workers, "_busy", lambda: False)
        peers = [several.peer(client) for client in "ab"]
        for peer in peers:
            threading.Thread(target=peer.upload, args=(peer.model(),)).start()
        for peer in peers:
            peer.finished()
        assert several.finish() == "completed"
    assert found == ["met"] * 2


def test_the_last_of_those_that_asked_says_at_once_that_it_is_on_record() -> None:
    asking = Asking()
    folding = NodeFolding(asking, lambda: CurrentModel(0, {}, None))
    submissions = []
    for update_id in (1, 2):
        upload = Upload(update_id=update_id, client_id="a", peer=PEER, accepted_at=1, digest="d", norms=None)
        submissions.append(Submission(upload, {}, (), lambda: None))
        folding.ask(submissions[-1])
    for item in from_bytes(asking.outbox.take(0.0)):
        assert item.number is not None
        asking.answered(item.number, q.Decided("rejected", "norm: far", None, 10, 1, None, False))
    said, hurried = list[object](), list[bool]()
    for submission in submissions:
        folding.confirm(submission, folding.offer(submission))
        hurried.append(asking.outbox.hurried)
        said += [item.said for item in from_bytes(asking.outbox.take(0.0))]
    assert said == [t.Confirmed(1, False, ()), t.Confirmed(2, False, ())]
    assert hurried == [False, True], "others are on their way behind the first one"
