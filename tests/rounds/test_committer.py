"""Committed rounds with a real evaluator and real files; the record is the test's."""

import errno
import math
import os
import threading
import weakref
from pathlib import Path

import pytest
import torch
from torch import nn

from flserver import events as e
from flserver.aggregation.strategies.fedavg import FedAvg
from flserver.errors import CheckpointError, StrategyError
from flserver.models.checkpoint import CheckpointStore
from flserver.models.evaluation import Evaluator
from flserver.models.state import State
from flserver.rounds.committer import Committer
from flserver.rounds.seats import Attempt
from flserver.rounds.updates import EndedAttempt, Updates
from tests.patience import PATIENCE


class Recorder:
    """Keeps what was emitted."""

    def __init__(self) -> None:
        self.events: list[e.Event] = []

    crowded = False

    def emit(self, event: e.Event, *, first: bool = True, payload: str | None = None) -> None:
        self.events.append(event)

    def flush(self) -> None:
        pass

    def committed(self) -> list[e.RoundCommitted]:
        return [event for event in self.events if isinstance(event, e.RoundCommitted)]


def test_a_round_names_its_strategys_arithmetic(tmp_path: Path) -> None:
    checkpoints, recorder = CheckpointStore(tmp_path, "run"), Recorder()
    checkpoints.prepare()
    committer = Committer(
        process_id=1, recorder=recorder, strategy=FedAvg(), evaluator=None, checkpoints=checkpoints, keep=1
    )
    committer.commit_initial({"w": torch.zeros(1)}, 1)
    assert [event.arithmetic for event in recorder.events if isinstance(event, e.RoundCommitted)] == ["exact-sum-1"]


def test_a_strategy_whose_own_state_fails_is_named_for_it(tmp_path: Path) -> None:
    class Faulty(FedAvg):
        def state(self) -> State:
            raise ZeroDivisionError("mine")

    checkpoints, recorder = CheckpointStore(tmp_path, "run"), Recorder()
    checkpoints.prepare()
    committer = Committer(
        process_id=1, recorder=recorder, strategy=Faulty(), evaluator=None, checkpoints=checkpoints, keep=1
    )
    with pytest.raises(StrategyError, match="the strategy failed: ZeroDivisionError: mine"):
        committer.commit_initial({"w": torch.zeros(1)}, 1)


def test_a_model_that_diverged_is_not_the_best_one(tmp_path: Path) -> None:
    losses = iter([math.nan, 2.5, math.inf, 3.0])
    evaluator = Evaluator(nn.Linear(1, 1), torch.device("cpu"), [("the test", lambda _, __: {"loss": next(losses)})])
    checkpoints = CheckpointStore(tmp_path, "run")
    checkpoints.prepare()
    recorder = Recorder()
    committer = Committer(
        process_id=1, recorder=recorder, strategy=FedAvg(), evaluator=evaluator, checkpoints=checkpoints, keep=1
    )
    for attempt in (1, 2, 3, 4):  # of round 0, which needs no updates
        state = {"weight": torch.full((1, 1), float(attempt)), "bias": torch.zeros(1)}
        committer.commit_initial(state, attempt)
        committer.prune()
    assert repr([event.loss for event in recorder.committed()]) == "[nan, 2.5, inf, 3.0]", (
        "it is on record as what it is"
    )
    pruned = [event.attempt for event in recorder.events if isinstance(event, e.CheckpointDeleted)]
    assert pruned == [1, 3], "the newest stays, and the one with the lowest loss"


def test_what_was_brought_together_for_an_attempt_that_is_aborted_is_given_back(tmp_path: Path) -> None:
    made = [torch.zeros(1)]
    there = weakref.ref(made[0])
    committer = Committer(
        process_id=1,
        recorder=Recorder(),
        strategy=FedAvg(),
        evaluator=None,
        checkpoints=CheckpointStore(tmp_path, "run"),
        keep=1,
        gathers=lambda attempt, strategy: {"w": made.pop()},
    )
    committer.gather(Attempt(1, 1, 0.0, 0.0), EndedAttempt([], Updates(), None, 1))
    assert there() is not None
    committer.forget(Updates())
    assert there() is None


@pytest.mark.parametrize("what", ["meanwhile", "evaluate"])
def test_what_only_reads_the_model_is_done_while_its_checkpoint_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """The disk is done only when the other is; the round is not committed before both."""
    done, fsync, recorder = threading.Event(), os.fsync, Recorder()
    state = {"weight": torch.ones(1, 1 << 18), "bias": torch.zeros(1)}

    def slow(descriptor: int) -> None:
        assert done.wait(PATIENCE)
        fsync(descriptor)

    def beside(*_: object) -> dict[str, float]:
        assert recorder.committed() == []
        done.set()
        return {}

    monkeypatch.setattr(os, "fsync", slow)
    evaluator = Evaluator(nn.Linear(1 << 18, 1), torch.device("cpu"), [("the test", beside)])
    checkpoints = CheckpointStore(tmp_path, "run")
    (tmp_path / "run").mkdir()
    committer = Committer(
        process_id=1,
        recorder=recorder,
        strategy=FedAvg(),
        evaluator=evaluator if what == "evaluate" else None,
        checkpoints=checkpoints,
        keep=0,
        meanwhile=beside if what == "meanwhile" else lambda state: None,
    )
    model = committer.commit_initial(state, 1)
    (committed,) = recorder.committed()
    assert committed.model_digest == model.digest
    assert checkpoints.read(committed.checkpoint, model.digest)[0]["weight"].equal(state["weight"])


@pytest.mark.parametrize("numbers", [1, 1 << 18])
def test_a_round_whose_checkpoint_the_disk_refuses_is_not_committed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, numbers: int
) -> None:
    def refuse(descriptor: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    recorder, made_ready = Recorder(), list[object]()
    checkpoints = CheckpointStore(tmp_path, "run")
    checkpoints.prepare()
    monkeypatch.setattr(os, "fsync", refuse)
    committer = Committer(
        process_id=1,
        recorder=recorder,
        strategy=FedAvg(),
        evaluator=None,
        checkpoints=checkpoints,
        keep=0,
        meanwhile=made_ready.append,
    )
    with pytest.raises(CheckpointError, match="Input/output error"):
        committer.commit_initial({"weight": torch.ones(1, numbers)}, 1)
    assert (len(made_ready), recorder.committed(), committer.made) == (1, [], [])
