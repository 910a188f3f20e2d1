"""Rounds whose updates are kept: which files there are when a round exists, and what the record says of them."""

import errno
import os
from pathlib import Path

import pytest
import torch

from flserver import events as e
from flserver.aggregation.checks import state_digest
from flserver.errors import CheckpointError
from flserver.models.kept import KeptUpdates, read_kept
from tests.rounds.coordinated import Run, Trainer, tensors
from tests.sums import AnyOrder, InTurn


def kept_on_record(run: Run) -> dict[int, dict[int, str]]:
    """By round the paths of the updates, by their ids."""
    committed = [event for event in run.recorder.events if isinstance(event, e.RoundCommitted)]
    return {event.round: {kept.update_id: kept.path for kept in event.kept} for event in committed}


@pytest.mark.parametrize("strategy", [AnyOrder, InTurn])
def test_what_a_round_was_made_of_is_on_disk_and_on_record(tmp_path: Path, strategy: type[AnyOrder]) -> None:
    with Run(tmp_path, strategy=strategy(), min_clients=3, kept=KeptUpdates(tmp_path, "run")) as run:
        trainers = [Trainer(run, client) for client in "abc"]
        run.coordinator.start()
        for place, trainer in enumerate(trainers):
            trainer.model()
            trainer.submit(tensors(place, place, place), rejection="other: b's" if place == 1 else None)
        assert run.finish() == "completed"
        rounds = kept_on_record(run)
        assert [*rounds] == [0, 1]
        assert rounds[0] == {}
        found = {
            update_id: read_kept(tmp_path, path, state_digest)["w"].tolist() for update_id, path in rounds[1].items()
        }
        assert found == {1: [0.0] * 3, 3: [2.0] * 3}
        assert len(list((tmp_path / "run" / "updates").rglob("*.safetensors"))) == 2


def test_a_stopped_attempt_leaves_no_updates(tmp_path: Path) -> None:
    with Run(tmp_path, strategy=AnyOrder(), min_clients=2, kept=KeptUpdates(tmp_path, "run")) as run:
        a, b = (Trainer(run, client) for client in "ab")
        run.coordinator.start()
        a.model()
        b.model()
        a.submit(tensors(1, 1, 1))
        assert len(list((tmp_path / "run" / "updates").rglob("*.safetensors"))) == 1
        run.exchange.stop("the test")
        assert run.finish() == "interrupted"
        assert list((tmp_path / "run" / "updates").iterdir()) == []


@pytest.mark.parametrize("strategy", [AnyOrder, InTurn])
def test_an_update_that_cannot_be_kept_ends_the_run(
    tmp_path: Path, strategy: type[AnyOrder], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int, content: memoryview) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with Run(tmp_path, strategy=strategy(), min_clients=2, kept=KeptUpdates(tmp_path, "run")) as run:
        a, b = (Trainer(run, client) for client in "ab")
        run.coordinator.start()
        a.model()
        b.model()
        monkeypatch.setattr(os, "write", full)
        a.submit(tensors(1, 1, 1))
        assert run.finish() == "failed"
        assert isinstance(run.coordinator.error, CheckpointError)
        assert "No space left on device" in str(run.coordinator.error)
        assert [*kept_on_record(run)] == [0]


def test_only_the_newest_rounds_updates_stay_and_that_is_on_record_first(tmp_path: Path) -> None:
    kept = KeptUpdates(tmp_path, "run", rounds=1)
    with Run(tmp_path, rounds=3, strategy=AnyOrder(), kept=kept) as run:
        trainer = Trainer(run, "a")
        run.coordinator.start()
        for round in (1, 2, 3):
            trainer.model()
            trainer.submit(tensors(round, round, round))
        assert run.finish() == "completed"
        deleted = [event.round for event in run.recorder.events if isinstance(event, e.KeptUpdatesDeleted)]
        assert deleted == [1, 2]
        assert kept.on_disk() == [3]
        (path,) = kept_on_record(run)[3].values()
        assert torch.equal(read_kept(tmp_path, path, state_digest)["w"], run.exchange.model.state["w"])
