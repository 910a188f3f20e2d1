"""Simulated trainers that train: with the data and in the way of the trainer's own command, one after another."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from flserver.models.architectures import build
from flserver.models.datasets import load_test, load_train, partition_indices
from flserver.models.fldata import Data
from flserver.models.state import write_state
from flserver.models.training import Trainer, TrainingPolicy
from flserver.simulation.answers import Piece, lying
from flserver.simulation.bodies import Body
from flserver.simulation.script import Member
from flserver.wire.messages import wire_id

EPOCHS, LEARNING_RATE = 8, 0.7  # as the trainers in the field
FILES = 5  # of fldata, which trainers have in turn

Answers = Callable[[Member, Body, int], list[Piece]]


def training(members: Sequence[Member], told: Mapping[str, Any]) -> tuple[Answers, Mapping[str, int]]:
    """What makes the answers of ``members``, and how many samples each has.

    ``told``: ``model`` and ``data`` by name, ``data_dir``, the ``seed`` of the cut, and ``places``: by id that of a
    trainer, from 0 on, among ``of``. Raises UsageError.
    """
    torch.set_num_threads(1)
    module = build(told["model"], told["seed"])
    data_dir = Path(told["data_dir"]) if told["data_dir"] else None
    cut = _cut(told["data"], data_dir, told["of"], told["seed"])
    test = load_test(told["data"], data_dir, "1")
    trainers = {}
    for member in members:
        policy = TrainingPolicy(epochs=EPOCHS, learning_rate=LEARNING_RATE, batch_size=None, seed=member.seed)
        data = cut(told["places"][member.id])
        trainers[member.id] = Trainer(module, data, test, policy, member.id, torch.device("cpu"))

    def answers(member: Member, body: Body, round: int) -> list[Piece]:
        model = body.model
        trained = trainers[member.id].train(model.template.module, round)
        mine = model.template.copy()
        write_state(mine.module, trained.state)
        return lying(model, member, mine.answer(id=wire_id(member.id), metrics=trained.metrics()), None)

    return answers, {client_id: trainer.data_size for client_id, trainer in trainers.items()}


def _cut(dataset: str, data_dir: Path | None, of: int, seed: int) -> Callable[[int], Data]:
    """The training data of the trainer at a place, from 0 on."""
    if dataset == "fldata":
        files = [load_train(dataset, data_dir, str(1 + number), of, "iid", seed) for number in range(min(of, FILES))]
        return lambda place: files[place % len(files)]
    x, y = load_train(dataset, data_dir, "1", 1, "iid", seed)  # all of it, in an order that the seed says
    indices = partition_indices(y, "iid", of, seed)
    return lambda place: (x[indices[place]], y[indices[place]])
