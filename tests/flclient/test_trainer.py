"""Training without sockets."""

import math
from typing import ClassVar

import pytest
import torch
from torch import nn
from torch.nn import functional

from flclient.trainer import Measured, Trained, Trainer, TrainingPolicy
from flserver.errors import UsageError
from flserver.models.architectures import DEFAULT_MODEL, build, wire_module
from flserver.models.state import read_state, state_of, write_state
from flserver.wire.template import Template

CPU = torch.device("cpu")


class Watch(nn.Module):
    """Keeps the batches that it was trained on."""

    seen: ClassVar[list[torch.Tensor]] = []

    def __init__(self):
        super().__init__()
        self.inner = build(DEFAULT_MODEL, 1)
        self.norm = nn.BatchNorm1d(784)

    def forward(self, x):
        if self.training:
            self.seen.append(x)
        return self.inner(self.norm(x))


def policy(**given):
    return TrainingPolicy(**({"epochs": 8, "learning_rate": 0.7, "batch_size": None, "seed": 0} | given))


@pytest.fixture
def data():
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(41, 784, generator=generator)
    return x, (x[:, 0] * 10).long()


def sent(module):
    return Template.of({"header": "<MODEL>", "model": wire_module(module)})


def trainer(data, module=None, client_id="1", **given):
    module = module or build(DEFAULT_MODEL, 5)
    return Trainer(module, data, (data[0][:20], data[1][:20]), policy(**given), client_id, CPU)


def same(state, other):
    return all(torch.equal(state[name], other[name]) for name in state)


def test_full_batch_training_is_plain_gradient_descent_from_the_received_model(data):
    received = build(DEFAULT_MODEL, 1)
    template = sent(received)
    before = bytes(template.buffer)
    trained = trainer(data).train(template.module, 1)
    assert bytes(template.buffer) == before

    model = build(DEFAULT_MODEL, 1)
    x, y = data
    expected = [functional.nll_loss(model(x), y).item(), (model(x[:20]).argmax(1) == y[:20]).float().mean().item()]
    assert [trained.received.loss, trained.received.accuracy] == pytest.approx(expected)
    for _ in range(8):
        gradients = torch.autograd.grad(functional.nll_loss(model(x), y), list(model.parameters()))
        with torch.no_grad():
            for parameter, gradient in zip(model.parameters(), gradients, strict=True):
                parameter -= 0.7 * gradient
    for name, tensor in model.state_dict().items():
        assert torch.allclose(trained.state[name], tensor, atol=1e-5), name
    expected = [functional.nll_loss(model(x), y).item(), (model(x[:20]).argmax(1) == y[:20]).float().mean().item()]
    assert [trained.trained.loss, trained.trained.accuracy] == pytest.approx(expected, rel=1e-3)


def test_every_round_starts_from_what_was_received(data):
    template = sent(build(DEFAULT_MODEL, 1))
    client = trainer(data)
    assert same(client.train(template.module, 1).state, client.train(template.module, 2).state)


def test_an_earlier_rounds_state_is_not_touched_by_the_next(data):
    client = trainer(data)
    first = client.train(sent(build(DEFAULT_MODEL, 1)).module, 1)
    kept = {name: tensor.clone() for name, tensor in first.state.items()}
    client.train(sent(build(DEFAULT_MODEL, 2)).module, 2)
    assert same(first.state, kept)


@pytest.mark.parametrize("given", [{"batch_size": 10}, {"batch_size": None}])
def test_the_order_of_batches_and_dropout_depend_on_seed_client_and_count_alone(data, given):
    def module():
        return nn.Sequential(nn.Dropout(0.3), build(DEFAULT_MODEL, 1))

    template = sent(module())

    def result(client_id="1", seed=0, count=1):
        return trainer(data, module(), client_id, seed=seed, **given).train(template.module, count).state

    first = result()
    torch.manual_seed(99)
    expected = torch.rand(1)
    torch.manual_seed(99)
    assert same(first, result())
    assert torch.equal(torch.rand(1), expected), "the caller's random state moved"
    for other in (result(client_id="2"), result(seed=1), result(count=2)):
        assert not same(first, other)


def test_batches_are_of_nearly_equal_size_and_cover_every_sample(data):
    Watch.seen.clear()
    trainer(data, Watch().eval(), batch_size=10, epochs=1).train(sent(Watch()).module, 1)
    assert [len(x) for x in Watch.seen] == [9, 8, 8, 8, 8]
    together = torch.cat(Watch.seen)
    assert not torch.equal(together, data[0])
    assert sorted(row.tolist() for row in together) == sorted(row.tolist() for row in data[0])


def test_buffers_travel_as_parameters_do(data):
    def module():
        return nn.Sequential(nn.BatchNorm1d(784), build(DEFAULT_MODEL, 1))

    template = sent(module())
    trained = trainer(data, module()).train(template.module, 1)
    write_state(template.module, trained.state)
    assert read_state(template.module)["0.num_batches_tracked"].item() == 8
    assert same(read_state(template.module), trained.state)


@pytest.mark.parametrize(
    ("module", "reason"),
    [
        (nn.Linear(784, 10), "the server's model is not --model: it lacks fc1.weight"),
        (build(DEFAULT_MODEL, 0).double(), "fc1.weight has dtype float64 where float32 is needed"),
    ],
)
def test_another_model_than_the_local_one_is_a_usage_error(data, module, reason):
    with pytest.raises(UsageError, match=reason):
        trainer(data).train(sent(module).module, 1)


def test_data_that_the_model_does_not_take_is_a_usage_error(data):
    with pytest.raises(UsageError, match="does not take the training data"):
        Trainer(build(DEFAULT_MODEL, 0), (data[0][:, :9], data[1]), data, policy(), "1", CPU)
    with pytest.raises(UsageError, match="the test data has the label 10"):
        Trainer(build(DEFAULT_MODEL, 0), data, (data[0], data[1] + 10 - data[1].max()), policy(), "1", CPU)


def test_only_finite_metrics_are_reported():
    measured = Trained(
        state=state_of(nn.Linear(1, 1)),
        received=Measured(loss=1.5, accuracy=0.5),
        trained=Measured(loss=math.nan, accuracy=0.25),
        seconds=2.0,
    )
    assert measured.metrics() == {
        "loss": {"received": 1.5},
        "accuracy": {"received": 0.5, "trained": 0.25},
        "seconds": {"trained": 2.0},
    }
