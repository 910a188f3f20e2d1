"""Updates that are doubted, and models that are: the round thread with real rules and a strategy that keeps state."""

from collections.abc import Callable
from itertools import permutations
from pathlib import Path

import pytest
import torch

from flserver import events as e
from flserver.aggregation import FedAvg, State
from flserver.aggregation.checks import Norms
from flserver.rounds.norms import NormHistory
from tests.rounds.coordinated import Run, Trainer, tensors


@pytest.fixture
def start(tmp_path: Path) -> Callable[..., Run]:
    def starter(**changed: object) -> Run:
        run = Run(tmp_path, **changed)  # type: ignore[arg-type]
        run.exchange._rounds.norms.history = NormHistory(3, Norms(1.0, 0.0))
        return run

    return starter


NORMAL, FAR = Norms(1.0, 0.0), Norms(5000.0, 0.0)


def one_round(run: Run, sent: dict[str, tuple[State, Norms]], order: tuple[str, ...]) -> None:
    trainers = {client: Trainer(run, client) for client in sent}
    run.coordinator.start()
    for trainer in trainers.values():
        trainer.model()
    for client in order:
        update, norms = sent[client]
        submission, verdict = trainers[client].submit(dict(update), norms=norms)
        assert verdict.decision is None, "a suspect is decided later"
        submission.released.wait(0.01)


@pytest.mark.parametrize("order", list(permutations("abc")))
def test_a_suspect_is_rejected_whoever_came_first(start: Callable[..., Run], order: tuple[str, ...]) -> None:
    with start(min_clients=3) as run:
        sent = {"a": (tensors(9, 9, 9), FAR), "b": (tensors(1, 1, 1), NORMAL), "c": (tensors(3, 3, 3), NORMAL)}
        one_round(run, sent, order)
        assert run.finish() == "completed"
    assert run.exchange.model.state["w"].tolist() == [2.0, 2.0, 2.0]
    (rejected,) = run.recorder.of(e.SuspectRejected)
    assert (rejected.client_id, rejected.round, rejected.attempt) == ("a", 1, 1)
    assert rejected.reason.startswith("norm: the norm 5000 is more than 1000")
    assert run.recorder.of(e.SuspectsCount) == []
    committed = run.recorder.of(e.RoundCommitted)[-1]
    assert run.recorder.events.index(rejected) < run.recorder.events.index(committed)
    assert [o.client_id for o in committed.outcomes if o.update_id is not None] == ["b", "c"]
    assert run.exchange._rounds.norms.history == NormHistory(4, NORMAL), "what was rejected is no measure"


def test_where_half_are_suspects_they_count_in_the_order_of_the_ids(start: Callable[..., Run]) -> None:
    updates = {"a": (tensors(1e16, 0, 0), FAR), "b": (tensors(-1e16, 0, 0), NORMAL), "c": (tensors(1, 0, 0), FAR)}
    results = set()
    for order in (("a", "b", "c"), ("c", "b", "a"), ("b", "a", "c")):
        with start(min_clients=3) as run:
            one_round(run, updates, order)
            assert run.finish() == "completed"
        results.add(str(run.exchange.model.digest))
        (counted,) = run.recorder.of(e.SuspectsCount)
        assert (counted.clients, counted.there) == (("a", "c"), 3)
    assert len(results) == 1
    assert run.exchange._rounds.norms.history == NormHistory(4, FAR)


def test_a_suspect_is_decided_although_its_attempt_fails(
    start: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each undecided update is named at the end of its attempt, and no other."""

    def broken(self: FedAvg, update: State, n: int) -> None:
        raise ValueError("no sum today")

    monkeypatch.setattr(FedAvg, "add", broken)
    with start(min_clients=3) as run:
        sent = {"a": (tensors(9, 9, 9), FAR), "b": (tensors(1, 1, 1), NORMAL), "c": (tensors(3, 3, 3), NORMAL)}
        one_round(run, sent, ("a", "b", "c"))
        assert run.finish() == "failed"
    (rejected,) = run.recorder.of(e.SuspectRejected)
    (aborted,) = run.recorder.of(e.AttemptAborted)
    named = {o.update_id for o in aborted.outcomes if o.update_id is not None}
    assert rejected.update_id not in named
    assert len(named) == 2


class Momentum(FedAvg):
    """It remembers, in place, also what came of a model that was not committed."""

    def __init__(self) -> None:
        super().__init__()
        self.velocity: State = {}

    def finish(self) -> State:
        mean = super().finish()
        velocity = self.velocity.setdefault("w", torch.zeros(3, dtype=torch.float64))
        velocity += mean["w"]
        return mean | {"w": velocity.clone() if float(mean["w"][0]) < 50 else velocity * torch.inf}

    def state(self) -> State:
        return self.velocity

    def load_state(self, state: State) -> None:
        self.velocity = {name: tensor.clone() for name, tensor in state.items()}


def test_an_implausible_model_leaves_nothing_behind_but_who_is_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with Run(tmp_path, rounds=2, strategy=Momentum(), min_clients=3) as run:
        a, b, c = (Trainer(run, client) for client in "abc")
        run.coordinator.start()
        for value, sending in ((1.0, (a, b, c)), (4.0, (a, b, c)), (4.0, (b, c))):
            for trainer in sending:
                trainer.model()
                wild = trainer is a and value == 4.0
                update = tensors(*[500.0 if wild else value] * 3)
                trainer.submit(update, norms=Norms(900.0, 0.0) if wild else NORMAL)
        assert run.finish() == "completed"
    assert run.exchange.model.state["w"].tolist() == [5.0, 5.0, 5.0], "1 of the first round, and 4"
    (aborted,) = run.recorder.of(e.AttemptAborted)
    assert (aborted.reason, aborted.round, aborted.attempt) == ("implausible", 2, 1)
    assert (
        aborted.detail
        == "w holds NaN or infinity; client a, whose update is the furthest, is left out of the next attempt"
    )
    again = run.recorder.of(e.AttemptStarted)[-1]
    assert (again.clients, again.not_sent, again.why_not_sent) == (("b", "c"), ("a",), ("implausible",))
    assert "to start anew from round 0, the last that may be sound: go back to 0" in caplog.text


def test_where_too_few_are_left_it_says_who_is_left_out(tmp_path: Path) -> None:
    with Run(tmp_path, strategy=Momentum(), min_clients=2, rejoin_timeout=0.1) as run:
        a, b = Trainer(run, "a"), Trainer(run, "b")
        run.coordinator.start()
        for trainer, value in ((a, 500.0), (b, 1.0)):
            trainer.model()
            trainer.submit(tensors(value, value, value), norms=Norms(value, 0.0))
        assert run.finish() == "interrupted"
    waiting, interrupted = run.recorder.of(e.StateChanged)[-2:]
    left_out = "left out, because the model with its update was implausible: a"
    assert (waiting.detail or "").endswith(left_out)
    assert interrupted.detail == (
        f"only 1 of the 2 participants that a round needs were there within --rejoin-timeout; {left_out}"
    )


def test_where_a_smaller_quorum_would_do_it_says_so(tmp_path: Path) -> None:
    with Run(tmp_path, min_clients=3, min_updates=3, rejoin_timeout=0.1) as run:
        trainers = [Trainer(run, client) for client in "abc"]
        run.coordinator.start()
        for trainer in trainers:
            trainer.model()
        for trainer in trainers[:2]:
            trainer.submit(tensors(1, 1, 1))
        run.exchange.leave(trainers[2].registration)
        assert run.finish() == "interrupted"
    assert run.recorder.of(e.StateChanged)[-1].detail == (
        "only 2 of the 3 participants that a round needs were there within --rejoin-timeout"
        "; --min-updates 2 makes rounds of so many"
    )
