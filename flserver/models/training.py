"""Training on this client's data: a model in, a trained model and its numbers out. No sockets."""

import hashlib
import math
import time
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from flserver.errors import UsageError, one_line
from flserver.models.measuring import batch_count, check_data_fits, loss_and_accuracy, loss_of
from flserver.models.state import State, check_same_layout, read_state
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
    """What a round came to. ``state`` is the trainer's own model, on its device: what it is until it trains again.
    ``seconds`` is the time that training took."""

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
        self._batches = batch_count(len(train[1]), policy.batch_size or len(train[1]))

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

    def rehearse(self) -> None:
        """Try a step on as few samples as a step may have, which is where training fails if it does; nothing stays of
        it.

        Raises UsageError, one line, with a way out where there is one.
        """
        x, y = self._train
        few = min(len(y) // self._batches, 2)
        wrong = self._try_step(x[:few], y[:few])
        if wrong is None:
            return
        line = f"the model cannot be trained on {few} sample{'s' * (few > 1)} at a time: {wrong}"
        if few == 1 and self._try_step(torch.cat([x[:1]] * 2), torch.cat([y[:1]] * 2)) is None:
            line += "; give --batch-size 2 or more" if len(y) > 1 else "; it needs two training samples or more"
        raise UsageError(line)

    def _try_step(self, x: Tensor, y: Tensor) -> str | None:
        """What goes wrong in a step of training on ``x`` and ``y``; the model stays as it is."""
        holders = [module._buffers for module in self._module.modules()]
        kept = [{name: buffer if buffer is None else buffer.clone() for name, buffer in of.items()} for of in holders]
        try:
            with self._own_random_state():
                self._module.train()
                self._optimizer()
                self._backward(x, y)
        except Exception as error:
            return one_line(error)
        finally:
            self._module.zero_grad(set_to_none=True)
            for holder, before in zip(holders, kept, strict=True):  # BatchNorm's statistics
                holder.update(before)
        return None

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
        with self._own_random_state():
            torch.manual_seed(_round_seed(self._policy.seed, self._client_id, count))
            self._run_epochs()
        seconds = time.monotonic() - started
        state = self._module.state_dict()
        return Trained(state=state, received=received, trained=self._measure(), seconds=seconds)

    def _run_epochs(self) -> None:
        x, y = self._train
        optimizer = self._optimizer()
        self._module.train()
        for _ in range(self._policy.epochs):
            order = torch.arange(len(y)) if self._batches == 1 else torch.randperm(len(y))
            for batch in order.tensor_split(self._batches):
                optimizer.zero_grad()
                self._backward(x[batch], y[batch])
                optimizer.step()
        optimizer.zero_grad()  # as large as the model, and of no use until the next one is here

    def _optimizer(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self._module.parameters(), lr=self._policy.learning_rate)

    def _backward(self, x: Tensor, y: Tensor) -> None:
        torch.autograd.backward(loss_of(self._module(x), y))

    def _own_random_state(self) -> AbstractContextManager[None]:
        """What is drawn meanwhile moves nobody else's random state."""
        return torch.random.fork_rng(devices=[self._device] if self._device.type == "cuda" else [])

    def _measure(self) -> Measured:
        loss, _ = loss_and_accuracy(self._module, *self._train, self._device)
        _, accuracy = loss_and_accuracy(self._module, *self._test, self._device)
        return Measured(loss=loss, accuracy=accuracy)


def _round_seed(seed: int, client_id: str, count: int) -> int:
    digest = hashlib.sha256(f"{seed} {count} {client_id}".encode("utf-8", "surrogateescape")).digest()
    return int.from_bytes(digest[:7], "big")  # torch's seeds have 64 bits and a sign
