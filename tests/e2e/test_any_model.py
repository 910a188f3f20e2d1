"""Runs of models whose outputs are more than a tensor, measured by the server and trained by flclient."""

import random
from pathlib import Path

import pytest

from tests.e2e.conftest import Start
from tests.e2e.trainers import our_trainers

MODELS = """
from dataclasses import dataclass

import torch
import torchvision
from torch import nn


@dataclass
class Output:
    loss: object
    logits: torch.Tensor


class Net(nn.Module):
    def __init__(self, form):
        super().__init__()
        self.form = form
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3, stride=4), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.norm = nn.BatchNorm1d(4)
        self.head = nn.Linear(4, 10)

    def forward(self, x):
        features = self.norm(self.body(x))
        scores = self.head(features)
        return (scores, features) if self.form == "tuple" else Output(None, scores)


def a_tuple():
    return Net("tuple")


def an_object():
    return Net("object")


def googlenet():
    return torchvision.models.googlenet(weights=None, init_weights=False, num_classes=10)
"""


def write_cifar(folder: Path, train: int, test: int) -> None:
    """CIFAR-10's binary files, of noise: ``train`` samples in each of five files, and ``test``."""
    draw = random.Random(0)
    place = folder / "cifar-10-batches-bin"
    place.mkdir(parents=True)
    counts = {f"data_batch_{part}.bin": train for part in range(1, 6)} | {"test_batch.bin": test}
    for name, count in counts.items():
        (place / name).write_bytes(b"".join(bytes([i % 10]) + draw.randbytes(3 * 32 * 32) for i in range(count)))


@pytest.mark.parametrize("model", ["a_tuple", "an_object", "googlenet"])
def test_the_server_measures_and_flclient_trains_it(start: Start, tmp_path: Path, model: str) -> None:
    (tmp_path / "mine.py").write_text(MODELS)
    write_cifar(tmp_path / "data", train=3, test=7)
    server = start(
        *("--num-rounds", "2", "--min-clients", "2", "--time-to-wait", "0.3", "--model", f"mine:{model}"),
        *("--eval-data", "cifar10", "--data-dir", str(tmp_path / "data")),
    )
    own = {"model": f"mine:{model}", "dataset": "cifar10", "data_dir": tmp_path / "data", "num_clients": 2}
    # 15 samples are 8 and 7: in pairs one would be left over, on which BatchNorm cannot be trained.
    with our_trainers(server, 1, 2, code=tmp_path, epochs=1, batch_size=2, learning_rate=0.01, **own) as said:
        assert server.exit_code() == 0
    assert all("models trained: 2" in text for text in said.values())
    rounds = server.sql("SELECT round, updates_accepted, loss > 0, accuracy BETWEEN 0 AND 1 FROM v1_rounds")
    assert rounds == [(0, 0, 1, 1), (1, 2, 1, 1), (2, 2, 1, 1)]
    assert server.sql("SELECT client_id, data_size FROM v1_clients ORDER BY client_id") == [("1", 8), ("2", 7)]
    reported = server.sql("SELECT COUNT(*) FROM v1_client_metrics WHERE name = 'loss' AND measured_on = 'trained'")
    assert reported == [(4,)]
