"""The desk by itself: what is asked is answered in order, and nothing is left of who asked nothing."""

import threading

import pytest

from flserver import events as e
from flserver.errors import ConnectionLost, RegistrationRefused, StoreError
from flserver.identity.roster import Member
from flserver.ingest import questions as q
from flserver.ingest import told as t
from flserver.ingest.asking import Asking, error_of, failure_of
from flserver.ingest.batches import Item, from_bytes, raw_of, to_bytes
from flserver.ingest.desk import OnNodes
from flserver.ingest.outbox import MOST_ITEMS, Outbox
from flserver.ingest.recording import NodeRecorder
from flserver.rounds.seats import SentModel
from flserver.store.payloads import to_payload
from tests import facts
from tests.ingest.at_desk import PEER, AtDesk, names
from tests.patience import PATIENCE
from tests.recorder import raising
from tests.rounds.coordinated import tensors


def test_questions_are_answered_in_order_and_refusals_are_answers() -> None:
    with AtDesk() as at:
        again = q.Register("a", 10, PEER)
        at.say(Item(again, 1), Item(q.ExpectUpload(PEER), 2), Item(again, 3), Item(q.MoreIds("update_id"), 4))
        registered, expected, refused, ids = at.answers(4)
        assert [item.number for item in (registered, expected, refused, ids)] == [1, 2, 3, 4]
        assert isinstance(registered.said, q.Registered)
        assert (registered.said.registration.client_id, registered.said.registration.number) == ("a", 1)
        assert expected.said == q.Expected("10.0.0.1", 1)
        assert isinstance(refused.said, q.Failure)
        assert isinstance(error_of(refused.said), RegistrationRefused)
        assert ids.said == q.Ids(7, 1000)
        at.say(Item(q.MoreIds("update_id"), 5))
        assert at.answers(1)[0].said == q.Ids(1007, 1000), "to nobody twice"


def test_what_is_asked_does_not_wait_for_the_record_and_what_goes_there_keeps_its_order() -> None:
    with AtDesk() as at:
        room = threading.Event()
        at.recorder.full = True
        at.recorder.before[e.ConnectionOpened] = lambda: room.wait(PATIENCE)
        opened = t.Emitted("ConnectionOpened", to_payload(facts.opened(3)), True)
        at.say(Item(opened), Item(q.Flush(), 1), Item(q.ExpectUpload(PEER), 2))
        (first,) = at.answers(1)
        assert first.number == 2, "the flush waits for the event before it"
        assert at.recorder.events == []
        room.set()
        (second,) = at.answers(1)
        assert (second.number, second.said) == (1, q.Done())
        (event,) = at.recorder.events
        assert isinstance(event, e.ConnectionOpened)
        assert (event.node, at.recorder.durable) == ("node-1", 1)


def test_what_is_decided_as_its_node_goes_holds_no_attempt_up() -> None:
    with AtDesk() as at:
        registration = at.exchange.register("a", 10, PEER)
        at.exchange.confirm_registration(registration, lambda: None)
        at.exchange.close_window()
        attempt = at.exchange.begin(1, 1)
        at.exchange.publish(OnNodes(1, False))
        sent = at.exchange.next_model(registration)
        assert isinstance(sent, SentModel)
        sent.hand_over(1.0)
        at.place.gone("its process ended")
        at.place.join()
        decided = at.place.held.offer(q.Offer(1, "a", PEER, 5, "blake3:00", None, None, None, None), 2.0)
        assert decided.decision is None, "it counted"
        assert (attempt.recording, attempt.seats["a"].decision) == (0, "lost")
        with pytest.raises(ConnectionLost):
            at.place.held.reject(1, "size: too much")


class Counting(AtDesk):
    """A node of which one client's model is handed over: what it says of an upload can be looked at."""

    def __enter__(self) -> "Counting":
        self.say(Item(q.Register("a", 10, PEER), 1))
        registered = self.answers(1)[0].said
        assert isinstance(registered, q.Registered)
        self.say(Item(t.OnRecord(registered.registration)), Item(q.Flush(), 2))
        self.answers(1)
        self.exchange.close_window()
        self.attempt = self.exchange.begin(1, 1)
        self.exchange.publish(OnNodes(1, True))
        (ticket,) = (item.said for item in from_bytes(self.place.take(PATIENCE)) if isinstance(item.said, t.Ticket))
        assert ticket.handed_over
        self.sent = ticket.sent
        return self

    def offer(self) -> q.Decided:
        """What an upload is that comes now."""
        self.say(Item(t.Accepted(5)), Item(q.Offer(1, "a", PEER, 5, "blake3:00", None, None, None, None), 3))
        decided = self.answers(1)[0].said
        assert isinstance(decided, q.Decided)
        return decided

    @property
    def answer(self) -> int | None:
        """The update that counts as the client's answer."""
        return self.attempt.seats["a"].update_id


def test_an_upload_is_no_answer_to_a_model_that_was_taken_back() -> None:
    with Counting() as at:
        at.say(Item(t.TakenBack(at.sent)))
        assert (at.offer().decision, at.answer) == ("duplicate", None)
        at.say(Item(q.HandOver(at.sent), 4))
        assert at.answers(1)[0].said == q.Done()
        assert (at.offer().decision, at.answer) == (None, 1)


def test_what_is_confirmed_where_there_is_no_record_any_more_counts_nowhere() -> None:
    with Counting() as at:
        assert at.offer().decision is None
        at.recorder.before[e.ConnectionOpened] = raising(StoreError("the disk is full"))
        opened = t.Emitted("ConnectionOpened", to_payload(facts.opened(3)), True)
        at.say(Item(opened), Item(t.Confirmed(1, False, ())), Item(q.Flush(), 4))
        at.answers(1)
        assert (at.answer, at.attempt.recording, at.place.held.ids) == (None, 0, frozenset())


ROW = t.Emitted("UpdateReceived", to_payload(facts.update(1, "a")), True)


@pytest.mark.parametrize(
    ("said", "remembered", "named"),
    [
        ([], set(), []),
        ([ROW], {1}, [1]),
        ([ROW, t.Confirmed(1, True, ())], set(), [1]),
        ([ROW, t.Withdrawn(1)], set(), []),
    ],
    ids=["no row yet", "being decided", "held", "withdrawn"],
)
def test_a_lost_update_is_named_where_it_has_a_row_and_is_remembered_only_until_it_is_held(
    said: list[t.Fact], remembered: set[int], named: list[int]
) -> None:
    with Counting() as at:
        assert at.offer().decision is None
        at.say(*map(Item, said), Item(q.Flush(), 4))
        at.answers(1)
        assert at.place._on_record.updates == remembered
        at.place.gone("its process ended")
        at.place.join()
        (gone,) = at.recorder.of(e.NodeLost)
        assert [one.update_id for one in gone.updates] == named


def test_a_node_that_comes_later_hears_nothing_of_who_has_left_before_anything_began() -> None:
    with AtDesk() as at:
        at.say(Item(q.Register("a", 10, PEER), 1), Item(q.Register("b", 10, PEER), 2))
        _, b = at.answers(2)
        assert isinstance(b.said, q.Registered)
        at.say(Item(t.Left(b.said.registration, "closed")))
        late = at.desk.open("node-2")
        heard = [item.said for item in from_bytes(late.take(PATIENCE))]
        assert heard == [t.Known("a", PEER, True)]
        late.gone("the test is over")
        late.join()


@pytest.mark.parametrize("last", ["what it says", "its end"])
def test_a_defect_costs_the_node_that_meets_it_and_nobody_waits_for_it(
    last: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with Counting() as at:
        assert at.offer().decision is None
        if last == "its end":
            monkeypatch.setattr(at.place._on_record, "ends", raising(ValueError("a defect")))
        cut = threading.Event()
        at.place.cut = cut.set
        at.say(Item(t.Confirmed(99, True, ())), Item(t.Confirmed(1, True, ())))
        at.place._in_order._thread.join(PATIENCE)
        assert not at.place._in_order._thread.is_alive()
        assert cut.is_set()
        assert (names(at.desk), at.attempt.recording, at.attempt.losing) == ([], 0, 0)
        reasons = [gone.reason for gone in at.recorder.of(e.NodeLost)]
        assert reasons == (["what it said could not be put on record: KeyError(99)"] if last != "its end" else [])
        assert "could not be put on record" in caplog.text


def test_nodes_are_given_the_model_of_the_round_before_once() -> None:
    with AtDesk() as at:
        models = [tensors(float(number), 0, 0) for number in range(4)]
        at.desk.goes_on_after = models[0]
        late = at.desk.open("node-2")
        given: list[list[tuple[int, list[bytes]]]] = [[], []]

        def take() -> None:
            for place, found in zip((at.place, late), given, strict=True):
                said = [item.said for item in from_bytes(place.take(0.0) or to_bytes([]))]
                models = [one for one in said if isinstance(one, t.Model)]
                found += [(one.number, [bytes(blob) for blob in one.before]) for one in models]

        at.say(Item(t.Ready("a layout")))
        for model in models[1:3]:
            at.desk.render(model)
            take()
        late.give(to_bytes([Item(t.Ready("a layout"))]))
        take()
        at.desk.render(models[3])
        take()
        before = [[bytes(blob) for blob in raw_of(model)] for model in models]
        assert given == [[(1, before[0]), (2, []), (3, [])], [(2, before[1]), (3, [])]]
        late.gone("the test is over")
        late.join()


def test_a_node_is_told_where_there_is_no_record_any_more() -> None:
    with AtDesk() as at:
        at.recorder.before[e.ConnectionOpened] = raising(StoreError("the disk is full"))
        opened = t.Emitted("ConnectionOpened", to_payload(facts.opened(3)), True)
        at.say(Item(opened), Item(q.Flush(), 1))
        told = [item.said for item in from_bytes(at.place.take(PATIENCE))]
        assert t.RecordFailed("the disk is full") in told
        asking = Asking()
        recorder = NodeRecorder(asking)
        recorder.fail("the disk is full")
        with pytest.raises(StoreError, match="disk is full"):
            recorder.emit(facts.opened(4))


def test_who_emits_waits_for_room_in_the_record() -> None:
    asking = Asking()
    recorder = NodeRecorder(asking)
    while not recorder.crowded:
        recorder.emit(facts.opened(1), first=False)
    waited = threading.Thread(target=recorder.emit, args=(facts.opened(2),), kwargs={"first": False})
    waited.start()
    recorder.emit(facts.opened(3))  # who goes first has room
    taken: list[Item] = []
    while batch := asking.outbox.take(0.0):
        taken += from_bytes(batch)
    sizes = [len(item.said.payload) for item in taken if isinstance(item.said, t.Emitted)]
    assert waited.is_alive()
    recorder.taken(len(sizes), sum(sizes))
    waited.join(PATIENCE)
    assert not waited.is_alive()


def test_a_line_that_ends_answers_everybody() -> None:
    asking = Asking()
    found: list[BaseException] = []

    def ask() -> None:
        try:
            asking.ask(q.Flush(), q.Done)
        except StoreError as error:
            found.append(error)

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    while len(from_bytes(asking.outbox.take(PATIENCE))) == 0:
        pass
    asking.lost()
    for thread in threads:
        thread.join(PATIENCE)
    assert [str(error) for error in found] == ["the coordinator is gone"] * 3


@pytest.mark.parametrize(
    "error", [RegistrationRefused("why", "less"), ConnectionLost("gone"), StoreError("full"), ValueError("a defect")]
)
def test_errors_go_over_a_line(error: Exception) -> None:
    again = error_of(failure_of(error))
    expected = type(error) if not isinstance(error, ValueError) else type(again)
    assert type(again) is expected
    assert str(again) == ("ValueError: a defect" if isinstance(error, ValueError) else str(error))
    assert getattr(again, "told", None) == getattr(error, "told", None)


def test_a_batch_is_bounded_and_nothing_of_it_is_lost() -> None:
    outbox = Outbox()
    for number in range(MOST_ITEMS + 1):
        outbox.put(q.Done(), number)
    outbox.close()
    outbox.put(q.Done(), 9)  # heard by nobody
    batches = [from_bytes(outbox.take(0.0)) for _ in range(2)]
    assert [len(batch) for batch in batches] == [MOST_ITEMS, 1]
    assert outbox.over
    assert outbox.take(0.0) == b""


def test_a_node_that_comes_after_sighup_hears_of_the_roster_that_is_in_force() -> None:
    """What it was told first may be of before, where it took its time to begin."""
    with AtDesk() as at:
        members = (Member(client_id="1"), Member(client_id="2", label="Lund"))
        at.desk.reload(members)
        late = at.desk.open("node-2")
        told = [from_bytes(place.take(0.0) or to_bytes([])) for place in (at.place, late)]
        late.gone("the test is over")
        late.join()
    assert all(t.Reload(members) in [item.said for item in items] for items in told)
