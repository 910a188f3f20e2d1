"""Updates that are folded as they arrive: real rules, a strategy that takes any order, threads that are sessions."""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import permutations
from pathlib import Path

import pytest

from flserver import events as e
from flserver.aggregation import State
from flserver.aggregation.checks import Norms
from flserver.errors import StrategyError, TooDifferent
from flserver.rounds import Verdict
from flserver.rounds.endings import Farewell
from flserver.rounds.norms import NormHistory
from tests.patience import PATIENCE, eventually
from tests.rounds.coordinated import Run, Trainer, Watched, tensors
from tests.sums import AnyOrder, InTurn


class Gate:
    """Holds each fold up until it is opened."""

    def __init__(self, what: str = "add") -> None:
        self._what = what
        self.reached, self._open = threading.Semaphore(0), threading.Event()

    def __call__(self, what: str, update: State) -> None:
        if what == self._what:
            self.reached.release()
            assert self._open.wait(PATIENCE)

    def await_folds(self, count: int) -> None:
        for _ in range(count):
            assert self.reached.acquire(timeout=PATIENCE)

    def open(self) -> None:
        self._open.set()


@pytest.fixture
def sessions() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4, "a session") as pool:
        yield pool


Start = Callable[..., tuple[Run, list[Trainer]]]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    runs: list[Run] = []

    def started(strategy: AnyOrder, clients: str = "ab", **changed: object) -> tuple[Run, list[Trainer]]:
        """A run whose clients have all been sent the first model."""
        runs.append(Run(tmp_path / str(len(runs)), strategy=strategy, min_clients=len(clients), **changed))  # type: ignore[arg-type]
        trainers = [Trainer(runs[-1], client, data_size=n) for n, client in enumerate(clients, 1)]
        runs[-1].coordinator.start()
        for trainer in trainers:
            trainer.model()
        return runs[-1], trainers

    yield started
    for run in runs:
        run.__exit__()


def released(submission: Watched) -> bool:
    return submission.released.is_set()


def weights(run: Run) -> list[float]:
    return list(run.exchange.model.state["w"].tolist())


def submitted(future: "Future[tuple[Watched, Verdict]]") -> Watched:
    return future.result(PATIENCE)[0]


def test_an_update_is_folded_by_who_brings_it_and_its_memory_is_free_while_others_are_on_the_way(
    start: Start, sessions: ThreadPoolExecutor
) -> None:
    strategy = AnyOrder()
    run, (a, b) = start(strategy)
    folded, _ = sessions.submit(b.submit, tensors(3, 3, 3)).result(PATIENCE)
    assert released(folded)
    assert folded.tensors == {}
    assert strategy.threads == ["a session_0"], "although a, whose id is smaller, has not answered"
    sessions.submit(a.submit, tensors(6, 6, 6)).result(PATIENCE)
    assert run.finish() == "completed"
    assert weights(run) == [4.0] * 3
    assert all(name.startswith("a session") for name in strategy.threads)


@pytest.mark.parametrize("order", list(permutations((0, 1, 2))))
def test_any_order_gives_the_same_model(start: Start, order: Sequence[int]) -> None:
    run, trainers = start(AnyOrder(), "abc")
    for place in order:
        trainers[place].submit(tensors(place, 2.0**30 * place, -place))
    assert run.finish() == "completed"
    assert weights(run) == [(0 + 2 + 6) / 6, 2.0**30 * 8 / 6, -8 / 6]


def test_a_strategy_that_takes_them_in_turn_is_called_on_one_thread(start: Start, sessions: ThreadPoolExecutor) -> None:
    strategy = InTurn()
    run, (a, b) = start(strategy)
    waiting, _ = sessions.submit(b.submit, tensors(3, 3, 3)).result(PATIENCE)
    assert not released(waiting)
    sessions.submit(a.submit, tensors(6, 6, 6)).result(PATIENCE)
    assert run.finish() == "completed"
    assert strategy.threads == ["coordinator"] * 2


class Clipped(AnyOrder):
    """Written for one thread: it has an ``add`` of its own, and does not say that it takes any order."""

    def add(self, update: State, n: int) -> None:
        super().add({name: tensor.clamp(max=5) for name, tensor in update.items()}, n)


class Halved(AnyOrder):
    def finish(self) -> State:
        return {name: tensor // 2 for name, tensor in super().finish().items()}


class Whole(AnyOrder):
    needs = "all"


@pytest.mark.parametrize(
    ("kind", "on_arrival"), [(AnyOrder, True), (Halved, True), (InTurn, False), (Clipped, False), (Whole, False)]
)
def test_a_class_that_adds_otherwise_has_to_opt_in_itself(kind: type[AnyOrder], on_arrival: bool) -> None:
    assert kind().on_arrival is on_arrival


def test_several_are_folded_at_once_and_nobody_waits_for_them_but_the_attempt(
    start: Start, sessions: ThreadPoolExecutor
) -> None:
    """Also at its deadline; the lock is free: a client leaves meanwhile."""
    gate = Gate()
    run, trainers = start(AnyOrder(gate), round_timeout=0.2)
    coming = [sessions.submit(trainer.submit, tensors(6, 6, 6)) for trainer in trainers]
    gate.await_folds(2)
    sessions.submit(run.exchange.leave, trainers[0].registration).result(PATIENCE)
    assert not run.ended.wait(0.5), "the attempt ended although updates were being folded"
    assert not any(future.done() for future in coming)
    gate.open()
    assert run.finish() == "completed"
    assert weights(run) == [6.0] * 3
    assert all(released(submitted(future)) for future in coming)


def test_an_update_is_on_record_before_it_is_folded(start: Start, sessions: ThreadPoolExecutor) -> None:
    """``confirm`` comes after the events: what is only offered is not folded."""
    strategy = AnyOrder()
    run, (a, b) = start(strategy)
    submission, verdict = a.submit(tensors(6, 6, 6), confirm=False)
    assert strategy.threads == []
    b.submit(tensors(6, 6, 6))
    assert not run.ended.wait(0.2)
    run.folding.confirm(submission, verdict)
    assert run.finish() == "completed"


def test_a_stop_waits_for_what_is_being_folded_and_then_aborts_it(start: Start, sessions: ThreadPoolExecutor) -> None:
    gate = Gate()
    run, (a, _) = start(AnyOrder(gate))
    future = sessions.submit(a.submit, tensors(6, 6, 6))
    gate.await_folds(1)
    run.exchange.stop("stopped by a test")
    assert not run.ended.wait(0.3)
    assert run.recorder.of(e.AttemptAborted) == []
    gate.open()
    assert run.finish() == "interrupted"
    (aborted,) = run.recorder.of(e.AttemptAborted)
    assert [o.update_id for o in aborted.outcomes] == [1, None]
    assert released(submitted(future))


def test_what_an_aborted_attempt_has_folded_is_in_no_later_sum(start: Start, sessions: ThreadPoolExecutor) -> None:
    """Its client comes again meanwhile, while its update is still being folded."""
    gate = Gate()
    strategy = AnyOrder(gate)
    run, (a, b) = start(strategy, round_timeout=0.3, rejoin_timeout=PATIENCE)
    sessions.submit(a.submit, tensors(100, 100, 100))
    gate.await_folds(1)
    run.exchange.leave(a.registration)
    again = Trainer(run, "a")
    assert strategy.begun == 1, "no attempt begins before the fold has ended"
    gate.open()
    eventually(lambda: bool(run.recorder.of(e.AttemptAborted)))
    assert run.recorder.of(e.AttemptAborted)[0].reason == "quorum"
    late, verdict = b.submit(tensors(50, 50, 50))
    assert (verdict.decision, released(late)) == ("late", True)
    for trainer in (again, b):
        trainer.model()
    again.submit(tensors(6, 6, 6))
    b.submit(tensors(6, 6, 6))
    assert run.finish() == "completed"
    assert weights(run) == [6.0] * 3
    assert len(strategy.threads) == 3, "and the late one was not folded"


@pytest.mark.parametrize("what", ["add", "reserve"])
def test_a_fold_that_fails_aborts_its_attempt_and_ends_the_run(
    start: Start, sessions: ThreadPoolExecutor, what: str, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(called: str, update: State) -> None:
        if called == what:
            raise ValueError("no sum today")

    run, (a, _) = start(AnyOrder(broken))
    future = sessions.submit(a.submit, tensors(1, 1, 1))
    assert run.finish() == "failed"
    assert a.next() == Farewell("stopped")
    assert isinstance(run.coordinator.error, StrategyError)
    assert str(run.coordinator.error) == "the strategy failed: ValueError: no sum today"
    (aborted,) = run.recorder.of(e.AttemptAborted)
    if what == "add":
        assert released(submitted(future)), "the peer has done nothing wrong"
    else:
        assert isinstance(future.exception(PATIENCE), StrategyError), "nothing of it is on record yet"
    named = [o.update_id for o in aborted.outcomes]
    assert (aborted.reason, named) == ("failed", [1 if what == "add" else None, None])


def test_an_update_for_which_the_strategy_has_no_room_is_rejected_before_it_is_folded(start: Start) -> None:
    def full(called: str, update: State) -> None:
        if called == "reserve" and float(update["w"][0]) == 9:
            raise TooDifferent("its integers differ in more than 0 places")

    strategy = AnyOrder(full)
    run, (a, b, c) = start(strategy, "abc", min_updates=2)
    rejected, verdict = b.submit(tensors(9, 9, 9))
    assert (verdict.decision, verdict.reason) == ("rejected", "size: its integers differ in more than 0 places")
    assert released(rejected)
    a.submit(tensors(4, 4, 4))
    c.submit(tensors(8, 8, 8))
    assert run.finish() == "completed"
    assert weights(run) == [7.0] * 3
    assert len(strategy.threads) == 2
    outcomes = {o.client_id: (o.participation, o.update_id) for o in run.recorder.of(e.RoundCommitted)[-1].outcomes}
    assert outcomes["b"] == ("answered", None)


def test_what_could_not_be_put_on_record_keeps_no_room(start: Start) -> None:
    called: list[tuple[str, float]] = []
    run, (a, b) = start(AnyOrder(lambda what, update: called.append((what, float(update["w"][0])))))
    submission, verdict = a.submit(tensors(9, 9, 9), confirm=False)
    run.folding.withdraw(submission, verdict)
    for trainer in (a, b):
        trainer.submit(tensors(6, 6, 6))
    assert run.finish() == "completed"
    assert weights(run) == [6.0] * 3
    assert called == [("reserve", 9), ("unreserve", 9), *[("reserve", 6), ("add", 6)] * 2]


def test_what_cannot_count_is_not_folded(start: Start) -> None:
    strategy = AnyOrder()
    run, (a, b, _) = start(strategy, "abc", min_updates=1, round_timeout=0.5)
    a.submit(tensors(6, 6, 6))
    duplicate, verdict = a.submit(tensors(9, 9, 9))
    assert (verdict.decision, released(duplicate)) == ("duplicate", True)
    rejected, verdict = b.submit(tensors(9, 9, 9), rejection="shape: w")
    assert (verdict.decision, released(rejected)) == ("rejected", True)
    assert run.finish() == "completed"
    assert (weights(run), len(strategy.threads)) == ([6.0] * 3, 1)


NORMAL, FAR = Norms(1.0, 0.0), Norms(5000.0, 0.0)


@pytest.mark.parametrize(("suspects", "expected"), [("a", 8.0), ("ac", 7.0)])
def test_suspects_wait_until_it_is_settled_whether_they_count(start: Start, suspects: str, expected: float) -> None:
    strategy = AnyOrder()
    run, trainers = start(strategy, "abc", min_updates=1)
    run.exchange._rounds.norms.history = NormHistory(3, NORMAL)
    kept = []
    for trainer, value in zip(trainers, (2, 8, 8), strict=True):
        far = trainer.client_id in suspects
        submission, verdict = trainer.submit(tensors(value, value, value), norms=FAR if far else NORMAL)
        assert verdict.suspect == far
        kept.append(submission)
    assert run.finish() == "completed"
    assert weights(run) == [expected] * 3
    on_coordinator = strategy.threads.count("coordinator")
    assert on_coordinator == (2 if suspects == "ac" else 0)
    assert all(map(released, kept))
