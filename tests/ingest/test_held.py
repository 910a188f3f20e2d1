"""What the desk holds of one node's updates: until they are in a model, or lost, and each once."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace

from flserver.ingest import questions as q
from flserver.ingest import told as t
from flserver.ingest.batches import Item, from_bytes, to_bytes
from flserver.ingest.desk import OnNodes
from flserver.ingest.held import settle_all
from flserver.rounds.model import CurrentModel
from flserver.rounds.seats import Attempt, Registration, SentModel, Upload, Verdict
from tests.ingest.at_desk import PEER, AtDesk
from tests.patience import PATIENCE
from tests.rounds.coordinated import tensors

SUM = (memoryview(b"a sum"),)


@contextmanager
def begun() -> Iterator[tuple[AtDesk, Attempt]]:
    """A desk, and an attempt whose model client ``a`` has."""
    with AtDesk() as at:
        registration = at.exchange.register("a", 10, PEER)
        at.exchange.confirm_registration(registration, lambda: None)
        at.exchange.close_window()
        model = tensors(1.0, 0, 0)
        at.desk.render(model)
        attempt = at.exchange.begin(1, 1)
        at.desk.announce(attempt, CurrentModel(0, model, None))
        at.exchange.publish(OnNodes(1, False))
        sent = at.exchange.next_model(registration)
        assert isinstance(sent, SentModel)
        sent.hand_over(1.0)
        yield at, attempt


def offered(base_round: int | None) -> q.Offer:
    return q.Offer(1, "a", PEER, 5, "blake3:00", None, None, None, base_round)


def held(at: AtDesk) -> tuple[Upload, Verdict]:
    """Its update counts, and is folded at the node."""
    place = at.place.held
    assert place.offer(offered(None), 2.0).decision is None
    found = place._deciding[1]
    place.confirm(t.Confirmed(1, True, (), None), None)
    assert place.ids == {1}
    return found


def test_what_answers_an_earlier_question_settles_nothing() -> None:
    with begun() as (at, _):
        held(at)
        place = at.place.held
        place.settle(1, 1, whole=False)
        place.given(t.Settled(1, 2, 1))
        assert not place.is_settled, "it is of another attempt"
        place.given(t.Settled(1, 1, 1))
        assert place.is_settled
        place.settle(1, 1, whole=True)
        place.given(t.Settled(1, 1, 1))
        assert not place.is_settled, "the sum is wanted now"
        place.given(t.Settled(1, 1, 1, SUM, made=True))
        assert (place.is_settled, place.ids) == (False, {1}), "the sum, and not what is made of it"
        place.given(t.Settled(1, 1, 1, SUM))
        assert (place.is_settled, place.ids, place.fault) == (True, frozenset(), None)
        place.given(t.Settled(1, 1, 1, SUM))
        assert place.fault is None, "it has answered already"
        assert [place.take(), place.take()] == [SUM, None], "once"


def test_a_sum_of_another_number_of_updates_is_a_fault() -> None:
    with begun() as (at, _):
        held(at)
        place = at.place.held
        place.settle(1, 1, whole=True)
        place.given(t.Settled(1, 1, 0))
        assert (place.is_settled, place.ids, place.take()) == (False, {1}, None)
        assert place.fault == "it has folded 0 updates, and 1 count"


def test_all_is_settled_or_nothing() -> None:
    with begun() as (at, _):
        held(at)
        place, other = at.place.held, at.desk.open("node-2")
        assert not settle_all({place: frozenset({1}), other.held: frozenset({2})}), "2 is lost"
        assert place.ids == {1}
        assert settle_all({place: frozenset({1}), other.held: frozenset()})
        assert place.ids == frozenset()
        other.gone("the test is over")
        other.join()


def test_the_end_of_an_attempt_waits_for_what_is_lost_and_then_nothing_of_it_is() -> None:
    with begun() as (at, attempt):
        upload, verdict = held(at)
        assert at.exchange.lose([(upload, verdict, True)]) == [upload]
        sealing = threading.Thread(target=at.exchange.seal, args=(attempt,))
        sealing.start()
        sealing.join(0.2)  # who does not wait takes no longer
        assert not attempt.sealed
        at.exchange.losses_on_record([upload])
        sealing.join(PATIENCE)
        assert attempt.sealed


def test_nothing_is_lost_of_an_attempt_whose_end_is_about_to_be_on_record() -> None:
    with begun() as (at, attempt):
        upload, verdict = held(at)
        at.exchange.seal(attempt)
        assert at.exchange.lose([(upload, verdict, True)]) == []
        assert (attempt.seats["a"].counts, attempt.losing, attempt.recording) == (True, 0, 0)


def test_what_was_held_against_another_model_than_the_running_attempts_is_stale() -> None:
    with begun() as (at, attempt):
        at.say(Item(t.Accepted(5)), Item(offered(-1), 1))
        assert [item.said for item in at.answers(1)] == [q.Stale()]
        assert (attempt.seats["a"].decision, attempt.recording) == (None, 0), "nothing is decided"
        at.say(Item(offered(0), 2))
        (answer,) = at.answers(1)
        assert isinstance(answer.said, q.Decided)
        assert answer.said.decision is None
        at.place.held.withdraw(1)


def test_a_node_hears_of_an_attempt_before_what_was_held_against_the_model_before_is_stale() -> None:
    with begun() as (at, _):
        late, attempt = at.desk.open("node-2"), at.exchange.begin(2, 1)
        new = tensors(2.0, 0, 0)
        late.give(to_bytes([Item(t.Ready("a layout")), Item(t.Accepted(5))]))
        at.desk.render(new)
        late.take(PATIENCE)
        offering = threading.Thread(target=late.give, args=(to_bytes([Item(offered(0), 1)]),))
        begin = at.place.held.begin

        def begins() -> None:
            begin()
            offering.start()
            offering.join(0.2)  # who does not wait for the lock takes no longer

        at.place.held.begin = begins  # type: ignore[method-assign]
        at.desk.announce(attempt, CurrentModel(1, new, None))
        offering.join(PATIENCE)
        said = [type(item.said) for item in from_bytes(late.take(PATIENCE))]
        late.gone("the test is over")
        late.join()
        assert said == [t.Began, q.Stale]


def test_what_a_node_offers_does_not_wait_for_a_model_that_is_being_copied() -> None:
    with begun() as (at, _):
        copying, copied = threading.Event(), threading.Event()

        def carry(number: int, state: object) -> None:
            copying.set()
            assert copied.wait(PATIENCE)

        at.desk.engine = SimpleNamespace(carry=carry, brings=lambda *_: False)  # type: ignore[assignment]
        renders = threading.Thread(target=at.desk.render, args=(tensors(2.0, 0, 0),))
        renders.start()
        assert copying.wait(PATIENCE)
        asks = threading.Thread(target=lambda: at.desk.base_round, daemon=True)
        asks.start()
        asks.join(PATIENCE)
        waits = asks.is_alive()
        copied.set()
        renders.join()
        assert not waits
        at.desk.engine = None


def test_a_node_that_is_ready_between_two_attempts_is_told_of_none_whose_model_it_has_not() -> None:
    with begun() as (at, attempt):
        late = at.desk.open("node-2")
        new = tensors(2.0, 0, 0)
        at.desk.render(new)  # while its checkpoint is written
        late.give(to_bytes([Item(t.Ready("a layout"))]))
        at.desk.announce(attempt, CurrentModel(1, new, None))
        said = [item.said for item in from_bytes(late.take(PATIENCE))]
        told = [(type(one), getattr(one, "number", getattr(one, "model", None))) for one in said]
        assert told == [(t.Model, 2), (t.Began, 2)]
        late.gone("the test is over")
        late.join()


def test_what_comes_before_nodes_are_told_of_the_attempt_is_not_of_it() -> None:
    """A trainer that stayed over a takeover has the model by then, and its node still adds to the attempt before."""
    with begun() as (at, before):
        at.exchange.leave(Registration("a", 1, False))
        at.exchange.confirm_registration(
            at.exchange.register("a", 10, PEER, SentModel(1, 1, inherited=True)), lambda: None
        )
        at.exchange.close_attempt(before)
        attempt = at.exchange.begin(1, 2)
        assert list(attempt.seats) == ["a"]
        decided = at.place.held.offer(offered(0), 2.0)
        at.place.held.confirm(t.Confirmed(1, decided.decision is None, ()), None)
        at.desk.announce(attempt, at.exchange.model)
        at.exchange.publish(OnNodes(1, False))
        ended = at.exchange.close_attempt(attempt)
        assert [seat.update_id for seat in ended.accepted] == sorted(at.place.held.ids)
        assert decided.decision == "late"
