"""The round thread with real rules, real FedAvg and real files; the record and the trainers are the test's."""

import pickle
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given
from hypothesis import strategies as st

from flserver import events as e
from flserver.aggregation import State
from flserver.aggregation.strategies.fedavg import FedAvg
from flserver.errors import RegistrationRefused, StrategyError
from flserver.rounds.endings import Farewell
from flserver.rounds.waiting import Waiting
from tests.examples import times
from tests.patience import PATIENCE, eventually
from tests.rounds.coordinated import Run, Trainer, tensors


@pytest.fixture
def start(tmp_path: Path) -> Callable[..., Run]:
    return lambda **changed: Run(tmp_path, **changed)


def committed_digest(folder: Path, order: Sequence[str], updates: dict[str, State], left: str | None) -> str:
    """One round of a fresh run whose clients answer in ``order``; ``left`` answers nothing and leaves first or last."""
    with Run(folder, min_clients=len(updates) + (left is not None)) as run:
        trainers = {client: Trainer(run, client, data_size=1 + len(client)) for client in updates}
        gone = Trainer(run, left) if left is not None else None
        run.coordinator.start()
        for trainer in (*trainers.values(), *([gone] if gone else [])):
            trainer.model()
        if gone is not None:
            run.exchange.leave(gone.registration)
        for client in order:
            submission, _ = trainers[client].submit(dict(updates[client]))
            # Let the coordinator have each by itself: it folds this one at once, or holds it for its turn.
            submission.released.wait(0.01)
        assert run.finish() == "completed"
        return str(run.exchange.model.digest)


@times(0.4, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
@given(st.data())
def test_the_same_updates_give_the_same_model_in_any_order_of_arrival(tmp_path: Path, data: st.DataObject) -> None:
    ids = data.draw(st.lists(st.sampled_from(["1", "2", "10", "a", "B", "ab"]), min_size=2, max_size=5, unique=True))
    wild = st.sampled_from([1e16, -1e16, 1.0, 0.1, -3.7, 1e-3])
    updates = {client: tensors(*data.draw(st.tuples(wild, wild, wild)), n=len(client)) for client in ids}
    expected = committed_digest(tmp_path, sorted(ids), updates, None)
    left = data.draw(st.sampled_from([None, "0", "15", "z"]))
    assert committed_digest(tmp_path, data.draw(st.permutations(ids)), updates, left) == expected


def test_a_model_is_not_to_be_had_before_its_attempt_is_durable(start: Callable[..., Run]) -> None:
    with start(rounds=2, min_clients=2) as run:
        a, b = Trainer(run, "a"), Trainer(run, "b")
        run.coordinator.start()
        for round in (1, 2):
            for trainer in (a, b):
                ticket = trainer.model()
                kinds = [type(event) for event in run.recorder.events[: run.recorder.durable]]
                assert ticket.sent.round == round
                assert kinds.count(e.RoundCommitted) == round
                assert kinds.count(e.AttemptStarted) == round + 1
                assert pickle.loads(bytes(ticket.broadcast.body))["header"] == "<MODEL>"
            a.submit(tensors(1, 2, 3))
            b.submit(tensors(3, 2, 1))
        assert run.finish() == "completed"
    assert run.exchange.model.state["w"].tolist() == [2.0, 2.0, 2.0]


def test_the_attempt_waits_for_an_answer_that_is_being_recorded(start: Callable[..., Run]) -> None:
    with start(min_clients=2, min_updates=1, round_timeout=0.2) as run:
        a, b = Trainer(run, "a"), Trainer(run, "b")
        run.coordinator.start()
        a.model()
        b.model()
        a.submit(tensors(1, 1, 1))
        submission, verdict = b.submit(tensors(3, 3, 3), confirm=False)
        assert not run.ended.wait(0.6), "the attempt ended although an answer was not on record"
        run.exchange.confirm_update(submission, verdict)
        assert run.finish() == "completed"
    assert run.exchange.model.state["w"].tolist() == [2.0, 2.0, 2.0]


def test_every_update_is_released_whatever_became_of_it(start: Callable[..., Run]) -> None:
    with start(min_clients=3) as run:
        a, b, c = (Trainer(run, client) for client in "abc")
        run.coordinator.start()
        for trainer in (a, b, c):
            trainer.model()
        kept = [c.submit(tensors(1, 1, 1)), a.submit(tensors(1, 1, 1)), a.submit(tensors(9, 9, 9))]
        kept.append(b.submit(tensors(1, 1, 1), rejection="shape: w"))
        assert run.finish() == "completed"
        for submission, _ in kept:
            assert submission.released.is_set()
    assert [verdict.decision for _, verdict in kept] == [None, None, "duplicate", "rejected"]


def test_an_update_that_differs_in_many_integers_keeps_no_memory_until_the_commit(
    start: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flserver.aggregation.medians.FEW", 0)
    with start(min_clients=3) as run:
        a, b, c = (Trainer(run, client) for client in "abc")
        run.coordinator.start()
        for trainer in (a, b, c):
            trainer.model()
        differs, _ = a.submit(tensors(1, 1, 1, n=7))
        assert differs.released.wait(PATIENCE)
        b.submit(tensors(1, 1, 1))
        c.submit(tensors(1, 1, 1, n=9))
        assert run.finish() == "completed"
    assert run.exchange.model.state["n"].item() == 7


def test_an_aborted_attempt_names_its_updates_and_leaves_nothing_in_the_next(start: Callable[..., Run]) -> None:
    with start(min_clients=2, round_timeout=0.3) as run:
        a, b = Trainer(run, "a"), Trainer(run, "b")
        run.coordinator.start()
        a.model()
        b.model()
        a.submit(tensors(100, 100, 100))
        while not run.recorder.of(e.AttemptAborted):
            assert not run.ended.wait(0.02)
        _, late = b.submit(tensors(5, 5, 5))
        assert late.decision == "late"
        a.model()
        b.model()
        a.submit(tensors(1, 1, 1))
        b.submit(tensors(3, 3, 3))
        assert run.finish() == "completed"
    (aborted,) = run.recorder.of(e.AttemptAborted)
    assert aborted.reason == "quorum"
    assert [(o.client_id, o.participation, o.update_id) for o in aborted.outcomes] == [
        ("a", "answered", 1),
        ("b", "timed_out", None),
    ]
    assert run.exchange.model.state["w"].tolist() == [2.0, 2.0, 2.0]


def test_a_stop_while_nobody_is_there_ends_it(start: Callable[..., Run]) -> None:
    with start() as run:
        run.coordinator.start()
        run.exchange.stop("stopped by a test")
        assert run.finish() == "interrupted"
    (ended,) = run.recorder.of(e.RunEnded)
    assert ended.status == "interrupted"


def test_no_attempt_begins_after_a_stop_that_came_when_it_was_about_to(start: Callable[..., Run]) -> None:
    """Enough are there, the coordinator has seen no stop yet, and says that it runs."""
    with start() as run:
        a = Trainer(run, "a")
        run.recorder.before[e.StateChanged] = lambda: run.exchange.stop("stopped by a test")
        run.coordinator.start()
        assert run.finish() == "interrupted"
        assert a.next() == Farewell("stopped")
    assert run.recorder.of(e.StateChanged)[0].state == "running"
    assert [event.round for event in run.recorder.of(e.AttemptStarted)] == [0]
    assert run.recorder.of(e.AttemptAborted) == []


def test_a_failing_strategy_fails_the_run_and_still_says_goodbye(
    start: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: FedAvg) -> State:
        raise ValueError("no mean today")

    monkeypatch.setattr(FedAvg, "finish", broken)
    with start() as run:
        a = Trainer(run, "a")
        run.coordinator.start()
        a.model()
        a.submit(tensors(1, 1, 1))
        assert run.finish() == "failed"
        assert a.next() == Farewell("stopped")
    assert isinstance(run.coordinator.error, StrategyError)
    (aborted,) = run.recorder.of(e.AttemptAborted)
    assert (aborted.reason, [o.update_id for o in aborted.outcomes]) == ("failed", [1])


def test_a_stop_waits_within_its_grace_for_those_who_still_train(start: Callable[..., Run]) -> None:
    with start(rounds=9, min_clients=3, min_updates=2, round_timeout=1.0) as run:
        a, b, c = (Trainer(run, client) for client in "abc")
        run.coordinator.start()
        for trainer in (a, b, c):
            trainer.model()
        a.submit(tensors(1, 1, 1))
        b.submit(tensors(1, 1, 1))
        while not run.recorder.of(e.RoundCommitted)[1:]:
            assert not run.ended.wait(0.02)
        for trainer in (a, b):
            trainer.model()
        run.exchange.stop("stopped by a test", grace=PATIENCE)
        for trainer in (a, b):
            trainer.submit(tensors(1, 1, 1))
        assert not run.ended.wait(0.6), "c would find the door closed"
        assert len(run.recorder.of(e.RoundCommitted)) == 3
        assert c.submit(tensors(1, 1, 1))[1].decision == "late"
        assert run.finish() == "interrupted"
        assert [trainer.next() for trainer in (a, b, c)] == [Farewell("stopped")] * 3
    assert run.recorder.of(e.AttemptAborted) == []


def test_the_earliest_of_several_stops_counts(start: Callable[..., Run]) -> None:
    with start(min_clients=2) as run:
        a, b = Trainer(run, "a"), Trainer(run, "b")
        run.coordinator.start()
        a.model()
        b.model()
        run.exchange.stop("first", grace=PATIENCE)
        run.exchange.stop("the record failed")
        run.exchange.stop("third", grace=PATIENCE)
        assert run.finish() == "interrupted"
    (aborted,) = run.recorder.of(e.AttemptAborted)
    assert isinstance(aborted, e.AttemptAborted)
    assert aborted.reason == "the record failed"
    assert {outcome.participation for outcome in aborted.outcomes} == {"cut_short"}


def test_who_registers_after_the_end_is_told_whether_to_come_back(start: Callable[..., Run]) -> None:
    with start() as run:
        run.coordinator.start()
        run.exchange.stop("stopped by a test")
        assert run.finish() == "interrupted"
        with pytest.raises(RegistrationRefused, match=r"stopping before .* Register again when it is back"):
            Trainer(run, "a")
        run.exchange.finish(Farewell("finished"))
        with pytest.raises(RegistrationRefused, match="The run is over"):
            Trainer(run, "a")


def waits(run: Run, awaited: str) -> list[tuple[object, ...]]:
    """What was said of one kind of waiting, when something has been."""

    def said() -> list[e.Waited]:
        return [event for event in run.recorder.events if isinstance(event, e.Waited) and event.awaited == awaited]

    eventually(said, lambda: run.recorder.events)
    return [(event.round, event.answered, event.missing, event.clients) for event in said()]


def test_whoever_is_waited_for_is_said_in_every_wait(
    start: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flserver.rounds.waiting.SAID_AFTER", (0.1, 3600.0))
    with start(rounds=9, min_clients=2, round_timeout=PATIENCE) as run:
        a = Trainer(run, "a")
        run.coordinator.start()
        assert waits(run, "registrations") == [(None, 1, 1, ())]
        b = Trainer(run, "b")
        for trainer in (a, b):
            trainer.model()
        a.submit(tensors(1, 1, 1))
        assert waits(run, "updates") in ([(1, 1, 1, ("b",))], [(1, 0, 2, ("a", "b"))])
        run.exchange.leave(b.registration)
        assert waits(run, "participants") == [(None, 1, 1, ("b",))]
        run.exchange.stop("stopped by a test")
        assert run.finish() == "interrupted"
    left = {event.awaited: event.seconds_left for event in run.recorder.events if isinstance(event, e.Waited)}
    assert left["registrations"] is None
    assert 0 < left["updates"] <= PATIENCE
    assert 0 < left["participants"] <= 60


def test_the_time_that_is_left_is_that_of_a_stop_where_that_is_less(start: Callable[..., Run]) -> None:
    with start(min_clients=2, round_timeout=4 * PATIENCE) as run:
        trainers = [Trainer(run, "a"), Trainer(run, "b")]
        run.coordinator.start()
        for trainer in trainers:
            trainer.model()
        assert 3 * PATIENCE < (run.coordinator.seconds_left or 0) <= 4 * PATIENCE
        run.exchange.stop("stopped by a test", grace=PATIENCE)
        assert 0 < (run.coordinator.seconds_left or 0) <= PATIENCE
        assert (run.exchange.waiting.awaited, run.exchange.waiting.names) == ("updates", ("a", "b"))
        run.exchange.stop("the test is over")
        assert run.finish() == "interrupted"
    assert run.exchange.waiting == Waiting()


def test_the_model_keeps_the_step_that_it_came_by(start: Callable[..., Run]) -> None:
    with start(rounds=2, min_clients=1, min_updates=1) as run:
        run.coordinator.start()
        trainer = Trainer(run, "a")
        steps = []
        for values in ((3.0, 0.0, 4.0), (3.0, 1.0, 4.0)):
            trainer.model()
            steps.append(run.exchange.model.step)
            trainer.submit(tensors(*values))
        assert run.finish() == "completed"
        steps.append(run.exchange.model.step)
    assert steps[0] is None, "round 0 came of no other"
    assert [(step.norm, step.before["w"].tolist()) for step in steps[1:] if step is not None] == [
        (5.0, [0.0, 0.0, 0.0]),
        (1.0, [3.0, 0.0, 4.0]),
    ]
