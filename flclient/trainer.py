"""Training on this client's data: a model in, a trained model and its numbers out. No sockets."""

import hashlib
import math
import time
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from flserver.models.measuring import check_data_fits, loss_and_accuracy, loss_of
from flserver.models.state import State, check_same_layout, read_state, state_of
from flserver.wire.pickles import Module

Data = tuple[Tensor, Tensor]


@dataclass(frozen=True, kw_only=True)
class TrainingPolicy:
    """How a round is trained: plain SGD; ``batch_size`` None is one batch of all samples."""

    epochs: int
    learning_rate: float
    batch_size: int | None
    seed: int


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Of one model: the loss (nats) on the training data, the accuracy (0 to 1) on the test data."""

    loss: float
    accuracy: float


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What a round came to. ``seconds`` is the time that training took."""

    state: State
    received: Measured
    trained: Measured
    seconds: float

    def metrics(self) -> dict[str, dict[str, float]]:
        """The numbers for the upload: name → what it was measured on → number. Only finite ones."""
        numbers = {
            "loss": {"received": self.received.loss, "trained": self.trained.loss},
            "accuracy": {"received": self.received.accuracy, "trained": self.trained.accuracy},
            "seconds": {"trained": self.seconds},
        }
        return {
            name: {place: number for place, number in of.items() if math.isfinite(number)}
            for name, of in numbers.items()
        }


class Trainer:
    """One client's model, data and way to train."""

    def __init__(
        self, module: nn.Module, train: Data, test: Data, policy: TrainingPolicy, client_id: str, device: torch.device
    ) -> None:
        """``module`` is on the CPU and becomes the trainer's own. Raises UsageError where it does not take the data."""
        check_data_fits(module, *train, "the training data")
        check_data_fits(module, *test, "the test data")
        self._module = module.to(device)
        self._device = device
        self._train = (train[0].to(device), train[1].to(device))
        self._test = test
        self._policy = policy
        self._client_id = client_id

    @property
    def data_size(self) -> int:
        """The number of training samples."""
        return len(self._train[1])

    @property
    def model_bytes(self) -> int:
        """The size of the model's tensors, in bytes."""
        return sum(tensor.nbytes for tensor in self._module.state_dict().values())

    @property
    def parameter_tensors(self) -> int:
        """How many tensors the model's parameters are."""
        return sum(1 for _ in self._module.parameters())

    @property
    def parts(self) -> int:
        """The modules and tensors that the model is made of."""
        return sum(1 for _ in self._module.modules()) + len(self._module.state_dict())

    def train(self, model: Module, count: int) -> Trained:
        """Train the received ``model``, whose memory is not changed. It is the ``count``-th one of this process.

        The order of batches and what dropout draws depend on seed, client id and ``count`` alone.
        Raises UsageError where the model's names, shapes or dtypes are not those of ``--model``.
        """
        state = read_state(model)
        check_same_layout(self._module.state_dict(), state, "the server's model is not --model: it")
        self._module.load_state_dict(state)
        received = self._measure()
        started = time.monotonic()
        cuda = [self._device] if self._device.type == "cuda" else []
        with torch.random.fork_rng(devices=cuda):
            torch.manual_seed(_round_seed(self._policy.seed, self._client_id, count))
            self._run_epochs()
        seconds = time.monotonic() - started
        return Trained(state=state_of(self._module), received=received, trained=self._measure(), seconds=seconds)

    def _run_epochs(self) -> None:
        x, y = self._train
        size = self._policy.batch_size or len(y)
        optimizer = torch.optim.SGD(self._module.parameters(), lr=self._policy.learning_rate)
        self._module.train()
        for _ in range(self._policy.epochs):
            # Batches of nearly equal size: BatchNorm cannot train on one left-over sample
            order = torch.arange(len(y)) if size >= len(y) else torch.randperm(len(y))
            for batch in order.tensor_split(math.ceil(len(y) / size)):
                optimizer.zero_grad()
                torch.autograd.backward(loss_of(self._module(x[batch]), y[batch]))
                optimizer.step()

    def _measure(self) -> Measured:
        loss, _ = loss_and_accuracy(self._module, *self._train, self._device)
        _, accuracy = loss_and_accuracy(self._module, *self._test, self._device)
        return Measured(loss=loss, accuracy=accuracy)


def _round_seed(seed: int, client_id: str, count: int) -> int:
    digest = hashlib.sha256(f"{seed} {count} {client_id}".encode("utf-8", "surrogateescape")).digest()
    return int.from_bytes(digest[:7], "big")  # torch's seeds have 64 bits and a sign
