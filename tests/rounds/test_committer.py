"""Committed rounds with a real evaluator and real files; the record is the test's."""

import math
from pathlib import Path

import torch
from torch import nn

from flserver import events as e
from flserver.aggregation.strategies.fedavg import FedAvg
from flserver.models.checkpoint import CheckpointStore
from flserver.models.evaluation import Evaluator
from flserver.rounds.committer import Committer


class Recorder:
    """Keeps what was emitted."""

    def __init__(self) -> None:
        self.events: list[e.Event] = []

    crowded = False

    def emit(self, event: e.Event, *, first: bool = True) -> None:
        self.events.append(event)

    def flush(self) -> None:
        pass


def test_a_round_names_its_strategys_arithmetic(tmp_path: Path) -> None:
    checkpoints, recorder = CheckpointStore(tmp_path, "run"), Recorder()
    checkpoints.prepare()
    committer = Committer(
        process_id=1, recorder=recorder, strategy=FedAvg(), evaluator=None, checkpoints=checkpoints, keep=1
    )
    committer.commit_initial({"w": torch.zeros(1)}, 1)
    assert [event.arithmetic for event in recorder.events if isinstance(event, e.RoundCommitted)] == ["exact sum"]


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
    committed = [event for event in recorder.events if isinstance(event, e.RoundCommitted)]
    assert repr([event.loss for event in committed]) == "[nan, 2.5, inf, 3.0]", "it is on record as what it is"
    pruned = [event.attempt for event in recorder.events if isinstance(event, e.CheckpointDeleted)]
    assert pruned == [1, 3], "the newest stays, and the one with the lowest loss"
